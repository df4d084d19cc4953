"""A model without networks, for tests of what happens around models: it draws coloured discs in milliseconds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from im3d_jax.errors import InputError
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.pipelines import Drawn, Orbit, Pipeline, ViewTask
from im3d_jax.pipelines.base import ONE, Batch, Drawing, Quality
from im3d_jax.progress import Report
from im3d_jax.reconstruction import FitConfig
from im3d_jax.reconstruction.refresh import Refresh
from splat import orbit_cameras


SIDE, VIEWS = 24, 16
ELEVATION = 0.25  # radians, of all orbits
PICTURE_EVALUATIONS, VIEW_EVALUATIONS, REFINE_EVALUATIONS = 8, 24, 9
# A few steps on a few gaussians: seconds, compilation included.
FIT = FitConfig(
    steps=12, capacity=192, initial=128, densify_every=6, densify_from=6, densify_until=11, multiscale=False,
    outside_views=2,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FakeSettings:
    """Stands for every quality."""

    quality: Quality
    fit: FitConfig = FIT
    fit_side: int | None = None
    # A fit of 12 steps is so blurred that no view would be accepted.
    refresh: Refresh | None = Refresh(tolerance=0.02, least_sharpness=0.0)


@dataclasses.dataclass(frozen=True)
class FakePictures:
    """Settings of pictures."""

    steps: int = 4


@jax.tree_util.Partial
def two_levels(images: jax.Array) -> list[jax.Array]:
    """Feature maps without weights: the pictures, and their differences along x."""
    return [images + 0.1, images[:, :, 1:] - images[:, :, :-1]]


def disc(frame: int, seed: int, side: int = SIDE) -> np.ndarray:
    """A picture [side, side, 4]: a disc whose red tells the frame and whose blue tells the seed."""
    y, x = np.mgrid[:side, :side] - 0.5 * (side - 1)
    image = np.zeros((side, side, 4), np.float32)
    image[..., :3] = 0.2 + 0.03 * frame, 0.5, 0.1 + 0.01 * (seed % 80)
    image[..., 3] = np.clip(0.3 * side + 0.5 - np.hypot(x, y), 0, 1)
    return image


class FakeModel:
    """Both a `ViewModel` and a `PictureModel`.

    Args:
        rows: Of a batch on each device; 0 for a model that draws one object at a time.

    Attributes:
        failures: {call: what is raised instead, once}.
        calls: What was asked for, in order: ``picture``, ``views``, ``refine 1``, ``orbit``; one entry a row.
        batches: How many rows each call of `draw_views` had.
    """

    name, remark, family = "fake", "", "bundle"
    image_size, num_views, target_fraction = SIDE, VIEWS, 0.6
    directions, memory = ("ccw",), None

    def __init__(self, rows: int = 0):
        self.rows, self.calls, self.batches = rows, [], []
        self.failures: dict[str, BaseException] = {}

    @property
    def pipeline(self) -> Pipeline:
        """Draws the pictures and the views."""
        return Pipeline(self, self)

    def vocabulary(self) -> dict[str, list[str]]:
        return {"mug": ["cup", "tea cup"], "red": []}

    def describe(self) -> list[str]:
        return [f"weights of {self.name}: none"]

    def prompt_remarks(self, prompt: str) -> list[str]:
        return [f"ignored: {word}" for word in prompt.split() if word == "xyzzy"]

    def check_prompt(self, prompt: str) -> None:
        if prompt == "plugh":
            raise InputError(f"{self.name} knows no plugh")

    def view_settings(self, quality: Quality) -> FakeSettings:
        return FakeSettings(quality)

    def picture_settings(self, quality: Quality) -> FakePictures:
        return FakePictures()

    def identity(self, *, elevation_known: bool) -> dict[str, Any]:
        return {"name": self.name, "sha256": "0" * 64}

    def picture_identity(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": "1" * 64}

    def rows_per_device(self) -> int:
        return self.rows

    def draw_pictures(
        self,
        prompts: Sequence[str],
        row_seeds: Sequence[int],
        settings: FakePictures,
        *,
        batch: Batch = ONE,
        report: Report | None = None,
    ) -> Drawing:
        self._note(["picture"] * len(prompts), report)
        return lambda: [Drawn(disc(0, seed, self.image_size), PICTURE_EVALUATIONS) for seed in row_seeds]

    def draw_views(
        self, tasks: Sequence[ViewTask], settings: FakeSettings, *, batch: Batch = ONE, report: Report | None = None
    ) -> Drawing:
        self._note(["views"] * len(tasks), report)
        self.batches.append(len(tasks))
        return lambda: [Drawn(self._orbit(task), VIEW_EVALUATIONS) for task in tasks]

    def refine_views(
        self,
        renders: Sequence[np.ndarray],
        tasks: Sequence[ViewTask],
        settings: FakeSettings,
        *,
        round: int,
        batch: Batch = ONE,
        report: Report | None = None,
    ) -> Drawing:
        self._note([f"refine {round}"] * len(tasks), report)
        drawn = []
        for views, task in zip(renders, tasks, strict=True):
            assert views.shape == (self.num_views, self.image_size, self.image_size, 4) and np.isfinite(views).all()
            views = np.clip(0.9 * views + 0.01 * round, 0, 1)
            views[0] = task.picture
            drawn.append(Drawn(views, REFINE_EVALUATIONS))
        return lambda: drawn

    def find_orbit(
        self,
        views: np.ndarray,
        settings: FakeSettings,
        *,
        seed: int,
        elevation: float | None,
        direction: str,
        report: Report | None,
    ) -> Orbit:
        self._note(["orbit"], report)
        angle = ELEVATION if elevation is None else elevation
        cameras = orbit_cameras(angle, views=len(views), width=views.shape[2], height=views.shape[1])
        how = "estimated" if elevation is None else "given"
        facts = {"elevation_deg": round(math.degrees(angle), 3), "elevation": how, "direction": "ccw"}
        return Orbit(cameras, angle, facts)

    def perceptual(self) -> tuple[Perceptual, str]:
        return Perceptual(two_levels), "two levels"

    def release(self) -> None:
        pass

    def _note(self, names: list[str], report: Report | None) -> None:
        self.calls += names
        if names[0] in self.failures:
            raise self.failures.pop(names[0])
        if report is not None:
            report(1, 1, names[0])

    def _orbit(self, task: ViewTask) -> np.ndarray:
        views = np.stack([disc(frame, task.seed, self.image_size) for frame in range(self.num_views)])
        if task.picture is not None:
            views[0] = task.picture
        return views
