"""What the rest of the program asks of a model: two Protocols, and the values that go through them.

`ViewModel` draws the views of objects, `PictureModel` a first picture from a prompt. Every method takes a batch of one
or more. Pictures are float32 [H, W, 4] and views [T, H, W, 4] in [0, 1] with straight alpha; view 0 shows the given
picture. One network evaluation is one forward pass of one guidance branch for one object, of any number of frames.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from im3d_jax.choices import Direction, Quality
from im3d_jax.errors import InputError
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.progress import Report
from im3d_jax.reconstruction import FitConfig
from im3d_jax.reconstruction.refresh import Refresh
from splat import Cameras


@dataclasses.dataclass(frozen=True)
class ViewTask:
    """One object of a batch.

    Attributes:
        picture: [H, W, 4], prepared, or None where the prompt alone decides.
        prompt: In words, or None.
        seed: Of everything that is random.
        elevation: Of the cameras in radians where it is known.
    """

    picture: np.ndarray | None
    prompt: str | None
    seed: int
    elevation: float | None = None


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What was drawn for one task.

    Attributes:
        images: Views [T, H, W, 4], or a picture [H, W, 4].
        evaluations: Network evaluations that it took.
        remarks: Lines for the user.
    """

    images: np.ndarray
    evaluations: int
    remarks: tuple[str, ...] = ()


Drawing = Callable[[], Sequence[Drawn | InputError]]
"""Waits for the devices; one result for each task, an error where a task failed on its own."""


@dataclasses.dataclass(frozen=True)
class Orbit:
    """The cameras of views.

    Attributes:
        cameras: T cameras, of view 0 first.
        elevation: Radians.
        facts: For run.json, JSON values; `elevation_deg`, `elevation` (how it came about) and `direction` always.
        remarks: Lines for the user.
    """

    cameras: Cameras
    elevation: float
    facts: Mapping[str, Any]
    remarks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Batch:
    """How a batch lies on devices.

    Attributes:
        mesh: Of `parallel.make_mesh`; rows are split over it and each device holds the weights. None: the first device.
        rows: Rows of the program, a multiple of the mesh's devices; fewer tasks are filled up, so that every batch runs
            the same program. 0: as many as there are tasks.
    """

    mesh: Mesh | None = None
    rows: int = 0

    def __post_init__(self):
        if self.mesh is not None and self.rows % self.mesh.size:
            raise ValueError(f"a batch of {self.rows} cannot be split evenly over {self.mesh.size} devices")

    def fill(self, tasks: Sequence[Any]) -> list[Any]:
        """The tasks and, up to `rows`, copies of the last one.

        Raises:
            ValueError: No task, or more than rows.
        """
        rows = self.rows or len(tasks)
        if not 0 < len(tasks) <= rows:
            raise ValueError(f"expected 1 to {rows} tasks, got {len(tasks)}")
        return [*tasks, *[tasks[-1]] * (rows - len(tasks))]


ONE = Batch()


class ViewSettings(Protocol):
    """What a quality stands for in one family: a frozen dataclass of which every field decides the result."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def fit(self) -> FitConfig:
        """Of the fit to views of this model."""
        ...

    @property
    def fit_side(self) -> int | None:
        """Longest side of the views that the fit sees, pixels; None: the views' own."""
        ...

    @property
    def refresh(self) -> Refresh | None:
        """How a refinement's views become targets; None: they are the targets, as in IM-3D."""
        ...


class Reader(Protocol):
    """What can be said about a prompt before anything is drawn."""

    name: str
    """For the user: family and layout."""
    remark: str
    """A line for the user on how the weights were read; may be empty."""

    def vocabulary(self) -> dict[str, list[str]]:
        """{word that the model knows: other words for it}; empty where any text is read, or none."""
        ...

    def describe(self) -> list[str]:
        """Lines on files, networks and memory, for `im3d doctor`."""
        ...

    def prompt_remarks(self, prompt: str) -> list[str]:
        """One line for each way in which the model does not follow the prompt."""
        ...

    def check_prompt(self, prompt: str) -> None:
        """Refuses a prompt that alone cannot say what to draw.

        Raises:
            InputError: The model knows the words that it was trained on, and the prompt names no thing among them.
        """
        ...


class PictureModel(Reader, Protocol):
    """Draws a picture of an object from a prompt."""

    def picture_settings(self, quality: Quality) -> Any:
        """What the quality stands for: a frozen dataclass."""
        ...

    def picture_identity(self) -> dict[str, Any]:
        """Name and SHA-256 of the weights."""
        ...

    def draw_pictures(
        self,
        prompts: Sequence[str],
        row_seeds: Sequence[int],
        settings: Any,
        *,
        batch: Batch = ONE,
        report: Report | None = None,
    ) -> Drawing:
        """Starts drawing one picture for each prompt, on a plain background or with alpha.

        Args:
            prompts: B prompts.
            row_seeds: B seeds, 0 to 2^32 - 1.
            settings: From `picture_settings`.
            batch: Where the rows lie.
            report: Told of every solver step, each of which is then a call of its own; without it, all steps are one
                program.
        """
        ...


class ViewModel(Reader, Protocol):
    """Draws the views of objects, draws them anew from renders, and says where their cameras stand."""

    family: str
    """``bundle`` or ``svd``: which fit suits the views, see `pipelines.fit_settings`."""
    image_size: int
    """Side of pictures and views, pixels."""
    num_views: int
    target_fraction: float
    """Longer side of a prepared object's box over the picture's side."""
    directions: tuple[Direction, ...]
    """Ways in which orbits may turn, seen from above."""
    memory: str | None
    """Name of the preset of what is done at once, where the family has such presets."""

    def view_settings(self, quality: Quality) -> ViewSettings:
        """What the quality stands for: a frozen dataclass."""
        ...

    def identity(self, *, elevation_known: bool) -> dict[str, Any]:
        """Name and SHA-256 of everything in the weights that decides a result."""
        ...

    def rows_per_device(self) -> int:
        """Usual rows of a batch on each device; 0: the model draws one object at a time, on one device."""
        ...

    def draw_views(
        self, tasks: Sequence[ViewTask], settings: Any, *, batch: Batch = ONE, report: Report | None = None
    ) -> Drawing:
        """Starts drawing the views of each task; arguments as those of `PictureModel.draw_pictures`.

        Tasks of one batch agree in whether they have a prompt and whether they have a picture.
        """
        ...

    def refine_views(
        self,
        renders: Sequence[np.ndarray],
        tasks: Sequence[ViewTask],
        settings: Any,
        *,
        round: int,
        batch: Batch = ONE,
        report: Report | None = None,
    ) -> Drawing:
        """Starts to noise renders part-way and to denoise them (IM-3D, arXiv 2402.08682, section 3.4).

        Args:
            renders: Of each task, [T, H, W, 4] renders of the fitted asset.
            tasks: As for `draw_views`; the pictures condition again.
            settings: From `view_settings`.
            round: 1 for the first refinement; each round has noise of its own.
            batch: Where the rows lie.
            report: See `PictureModel.draw_pictures`.
        """
        ...

    def find_orbit(
        self,
        views: np.ndarray,
        settings: Any,
        *,
        seed: int,
        elevation: float | None,
        direction: Direction,
        report: Report | None,
    ) -> Orbit:
        """The cameras of drawn views [T, H, W, 4].

        Args:
            views: Of one object.
            settings: From `view_settings`.
            seed: Of a search.
            elevation: Radians where it is known; estimated or searched otherwise.
            direction: Of turning, seen from above; ``auto`` finds it.
            report: Told of a search's steps.
        """
        ...

    def perceptual(self) -> tuple[Perceptual, str]:
        """Features of the fit's perceptual term where the user gives no LPIPS weights, and their name."""
        ...

    def release(self) -> None:
        """Frees device memory that a fit needs, unless the memory preset keeps the networks."""
        ...


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What `load` returns: who draws views, and who draws the first picture from a prompt.

    Attributes:
        views: Draws the views.
        pictures: Draws first pictures; None where only given pictures can be used.
    """

    views: ViewModel
    pictures: PictureModel | None = None

    def __repr__(self) -> str:
        return f"Pipeline(views={self.views.name}, pictures={self.pictures and self.pictures.name})"

    @property
    def prepares_pictures(self) -> bool:
        """Whether drawn pictures must be cut out and scaled, because another model than `views` drew them."""
        return self.pictures is not None and self.pictures is not self.views

    @property
    def name(self) -> str:
        """Of the view model."""
        return self.views.name

    def vocabulary(self) -> dict[str, list[str]]:
        """See `Reader.vocabulary`, of whoever reads the prompts."""
        return (self.pictures or self.views).vocabulary()


def place(tree: Any, batch: Batch) -> Any:
    """Arrays with a leading axis of rows, split over the batch's mesh."""
    if batch.mesh is None:
        return tree
    from im3d_jax.parallel import batch_sharding

    return jax.device_put(tree, batch_sharding(batch.mesh))


def fetch(rows: jax.Array) -> np.ndarray:
    """An array of `place`'s layout on the host; where its rows lie on several processes, all of them get all rows."""
    if rows.is_fully_addressable:
        return np.asarray(rows)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


def lost_end(text: str, longest: int = 200) -> str:
    """The line on the end of a prompt that a model does not read."""
    quoted = textwrap.shorten(text, longest, placeholder=" ...")
    return f"the prompt is longer than the model reads; ignored end: {quoted}"
