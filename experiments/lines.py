"""The lines of `experiments.sample` between the batches that draw them and the stages that write them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments.batches import BatchSampler, Drawn, OneByOne, Request, in_batches, one_ahead
from experiments.measure import as_stored
from experiments.orbit_batches import OrbitBatchSampler
from experiments.prompts import Line, Work
from im3d_jax import parallel, pipeline
from im3d_jax.cli import prompts, stages
from im3d_jax.cli.errors import user_errors
from im3d_jax.data.prepare import ImageError, prepare_image, read_image
from im3d_jax.foreign.video import OrbitPipeline
from im3d_jax.output.images import to_bytes
from im3d_jax.output.progress import ProgressPrinter
from im3d_jax.output.run_folder import RunFolder


class DrawnAhead:
    """A model whose drawings of one object are there already; all else is the model's own.

    Args:
        model: with `Pipeline`'s methods.
        picture: what `draw_image` gives, with its network evaluations.
        views: what `draw_views` gives of that picture, alike.
    """

    def __init__(self, model: Any, picture: tuple[np.ndarray, int], views: tuple[np.ndarray, int] | None = None):
        self._model, self._picture, self._views = model, picture, views

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def draw_image(self, prompt: str, **drawing: Any) -> tuple[np.ndarray, int]:
        """The picture."""
        return self._picture

    def draw_views(self, image: np.ndarray, prompt: str | None, **drawing: Any) -> tuple[np.ndarray, int]:
        """The views, if they are of this image: its file may have been changed by others since."""
        if self._views is None or not np.array_equal(to_bytes(image), to_bytes(self._picture[0])):
            return self._model.draw_views(image, prompt, **drawing)
        return self._views


@dataclasses.dataclass(frozen=True)
class Ready:
    """A line whose views are drawn.

    Attributes:
        line: what was drawn.
        folder: where it goes.
        model, image_model: its drawings, for the stages.
        said: lines for the user.
    """

    line: Line
    folder: RunFolder
    model: Any
    image_model: Any
    said: tuple[str, ...]

    def finish(self, assets: bool, perceptual: tuple[Any, str] | None, progress: ProgressPrinter) -> None:
        """Writes what is not there yet: the views and what belongs to them, and with `assets` the asset."""
        given = self.line.image
        if assets:
            stages.make_asset(
                self.folder, self.model, given, progress, image_model=self.image_model, perceptual=perceptual
            )
        else:
            stages.make_views(self.folder, self.model, given, progress, image_model=self.image_model)


class Drawer:
    """Draws lines in batches.

    Args:
        model: a `Pipeline` or an `OrbitPipeline` with room for its networks, whose batches go over all devices; others
            with their methods draw one by one.
        image_model: what draws first pictures where that is not the model, or None.
        quality: preset of the sampling.
        devices: to use.
        size: rows of a batch.

    Attributes:
        devices: those that are used.
        size: rows of a batch.
    """

    def __init__(self, model: Any, image_model: Any, quality: str, devices: Sequence[jax.Device], size: int):
        self._model, self._image_model, self._quality = model, image_model, quality
        if isinstance(model, pipeline.Pipeline):
            self.devices, self.size = list(devices), size
            self._sampler = BatchSampler(model, quality, parallel.make_mesh(devices=devices), size)
        elif isinstance(model, OrbitPipeline) and model.memory.keep:
            self.devices, self.size = list(devices), size
            self._sampler = OrbitBatchSampler(model, quality, parallel.make_mesh(devices=devices), size)
        else:
            self.devices, self.size = list(devices[:1]), 1
            self._sampler = OneByOne(model, quality)

    def draw(self, works: Sequence[Work]) -> Iterator[list[Ready]]:
        """Yields batches of lines; those whose views are there already come first and are not drawn again."""
        there = [work for work in works if "views" in work.done]
        if there:
            yield [Ready(work.line, work.folder, self._model, self._image_model, ()) for work in there]
        missing = [work for work in works if "views" not in work.done]
        for _, ready in one_ahead(in_batches(missing, lambda work: work.kind, self.size), self._start):
            yield ready

    def _start(self, works: Sequence[Work]) -> Callable[[], list[Ready]]:
        pictures = [self._picture(work) for work in works]
        requests = [
            Request(work.line.prompt, picture, work.line.seed)
            for work, (picture, _) in zip(works, pictures, strict=True)
        ]
        finish = self._sampler.start(requests)

        def ready() -> list[Ready]:
            return [
                self._ready(work, own, drawn) for work, (_, own), drawn in zip(works, pictures, finish(), strict=True)
            ]

        return ready

    def _picture(self, work: Work) -> tuple[np.ndarray | None, Any]:
        """The first view as its file will give it, or None to draw it; and what stands for the image model."""
        line, size, fraction = work.line, self._model.image_size, self._model.target_fraction
        with user_errors(ImageError):
            if "input" in work.done:
                return read_image(work.folder / "input.png"), self._image_model
            if line.image is not None:
                return as_stored(prepare_image(read_image(line.image), size, fraction)), None
            if self._image_model is None:
                return None, None
            drawn = self._image_model.draw_image(line.prompt, seed=line.seed, quality=self._quality, progress=None)
            return as_stored(prepare_image(drawn[0], size, fraction)), DrawnAhead(self._image_model, drawn)

    def _ready(self, work: Work, image_model: Any, drawn: Drawn) -> Ready:
        first, count = drawn.evaluations
        model = DrawnAhead(self._model, (drawn.picture, first), (drawn.views, count))
        said = *prompts.remarks(work.line.prompt, model, image_model), *drawn.said
        return Ready(work.line, work.folder, model, image_model, said)
