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
from im3d_jax.cli.errors import UserError
from im3d_jax.data.prepare import ImageError, prepare_image, read_image
from im3d_jax.foreign.video import OrbitPipeline
from im3d_jax.output.images import to_bytes
from im3d_jax.output.progress import ProgressPrinter
from im3d_jax.output.run_folder import RunFolder
from im3d_jax.weights import WeightsError
from splat.io import NonFinite


# What can be wrong with one object while others are well.
OWN_ERRORS = (ImageError, WeightsError, NonFinite)


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
class Failed:
    """A line that cannot be drawn.

    Attributes:
        line: what was to be drawn.
        reason: in one line.
    """

    line: Line
    reason: str


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

    @property
    def drawn(self) -> bool:
        """Whether its views were drawn now, not by an earlier run."""
        return isinstance(self.model, DrawnAhead)

    def finish(self, assets: bool, perceptual: tuple[Any, str] | None, progress: ProgressPrinter) -> Failed | None:
        """Writes what is not there yet: the views and what belongs to them, and with `assets` the asset.

        Raises:
            UserError: what would end other lines too, as a folder that cannot be written.
            JaxRuntimeError: the device's memory is used up; the next batch is on it as well.
        """
        given, drawer = self.line.image, self.image_model
        try:
            if assets:
                stages.make_asset(self.folder, self.model, given, progress, image_model=drawer, perceptual=perceptual)
            else:
                stages.make_views(self.folder, self.model, given, progress, image_model=drawer)
        except UserError as error:
            if isinstance(error.__cause__, OWN_ERRORS):
                return _failed(self.line, error)
            if isinstance(error.__cause__, jax.errors.JaxRuntimeError):
                raise error.__cause__ from None
            raise UserError(f"line {self.line.number}: {error}") from error
        return None


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

    def draw(self, works: Sequence[Work]) -> Iterator[list[Ready | Failed]]:
        """Yields batches of lines; those whose views are there already come first and are not drawn again."""
        there = [work for work in works if "views" in work.done]
        if there:
            yield [Ready(work.line, work.folder, self._model, self._image_model_of(work.line), ()) for work in there]
        missing = [work for work in works if "views" not in work.done]
        batches = in_batches(missing, lambda work: work.kind, self.size)
        if isinstance(self._sampler, OneByOne):  # draws at once: ahead, a line would only be written later
            yield from (self._start(batch)() for batch in batches)
        else:
            yield from (ready for _, ready in one_ahead(batches, self._start))

    def _start(self, works: Sequence[Work]) -> Callable[[], list[Ready | Failed]]:
        pictures = [self._picture(work) for work in works]
        requests = [
            Request(work.line.prompt, picture[0], work.line.seed)
            for work, picture in zip(works, pictures, strict=True)
            if not isinstance(picture, Failed)
        ]

        def outcomes(of: Callable[[Work, Any], Ready | Failed]) -> list[Ready | Failed]:
            pairs = zip(works, pictures, strict=True)
            return [picture if isinstance(picture, Failed) else of(work, picture[1]) for work, picture in pairs]

        def spoilt(error: Exception) -> list[Ready | Failed]:
            return outcomes(lambda work, _: _failed(work.line, error))

        try:
            finish = self._sampler.start(requests) if requests else list
        except OWN_ERRORS as error:  # of `OneByOne`, which draws at once
            failed = spoilt(error)
            return lambda: failed

        def ready() -> list[Ready | Failed]:
            try:
                drawn = iter(finish())
            except OWN_ERRORS as error:
                return spoilt(error)
            return outcomes(lambda work, own: self._ready(work, own, next(drawn)))

        return ready

    def _picture(self, work: Work) -> tuple[np.ndarray | None, Any] | Failed:
        """The first view as its file will give it, or None to draw it; and what stands for the image model."""
        line, size, fraction = work.line, self._model.image_size, self._model.target_fraction
        image_model = self._image_model_of(line)
        try:
            if "input" in work.done:
                return read_image(work.folder / "input.png"), image_model
            if line.image is not None:
                return as_stored(prepare_image(read_image(line.image), size, fraction)), None
            if image_model is None:
                return None, None
            if "drawn" in work.done:
                return as_stored(prepare_image(read_image(work.folder / "drawn.png"), size, fraction)), image_model
            drawn = image_model.draw_image(line.prompt, seed=line.seed, quality=self._quality, progress=None)
            return as_stored(prepare_image(as_stored(drawn[0]), size, fraction)), DrawnAhead(image_model, drawn)
        except OWN_ERRORS as error:
            return _failed(line, error)

    def _image_model_of(self, line: Line) -> Any:
        """What draws the line's first picture where that is not the model: nothing where the picture is given."""
        return None if line.image is not None else self._image_model

    def _ready(self, work: Work, image_model: Any, drawn: Drawn) -> Ready:
        first, count = drawn.evaluations
        model = DrawnAhead(self._model, (drawn.picture, first), (drawn.views, count))
        said = *prompts.remarks(work.line.prompt, model, image_model), *drawn.said
        return Ready(work.line, work.folder, model, image_model, said)


def _failed(line: Line, error: Exception) -> Failed:
    return Failed(line, " ".join(str(error).split()))
