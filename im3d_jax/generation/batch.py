"""Many runs at once: what their networks draw is drawn in batches over all devices, all else one run after the other.

The loops are those of single runs (`loop`): a batch gathers the drawings that they wait for and gives each its result.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import jax

from im3d_jax import parallel
from im3d_jax.errors import ImageError, InputError, WeightsError
from im3d_jax.generation.runners import Loop
from im3d_jax.generation.stages import Draw, Result, Stage
from im3d_jax.pipelines import Batch, Drawn, Pipeline
from im3d_jax.typing import Device


T = TypeVar("T")
R = TypeVar("R")
# What can be wrong with one run while others are well.
OWN_ERRORS = (ImageError, WeightsError)
Outcome = tuple[Loop[Any], InputError | None]
"""A loop whose views are drawn, or the reason why they cannot be."""


@dataclasses.dataclass(frozen=True)
class Room:
    """How many runs are drawn at once.

    Attributes:
        devices: That draw.
        rows: Of a batch, a multiple of the devices.
    """

    devices: tuple[Device, ...]
    rows: int

    @property
    def batch(self) -> Batch:
        """For the models; a single device needs no mesh."""
        if len(self.devices) == 1:
            return Batch(None, self.rows)
        return Batch(parallel.make_mesh(devices=self.devices), self.rows)


def make_room(
    pipeline: Pipeline, runs: int, *, rows: int | None = None, devices: Sequence[Device] | None = None
) -> Room:
    """Rows and devices of the batches.

    Args:
        pipeline: Draws.
        runs: How many there are to draw at most.
        rows: Of a batch, as asked for; the model's usual number otherwise. Never more than there is to draw.
        devices: To use; all of this process by default.

    Raises:
        InputError: The rows cannot be split over the devices evenly.
    """
    devices = tuple(jax.local_devices() if devices is None else devices)
    usual = pipeline.views.rows_per_device()
    if not usual:
        return Room(devices[:1], 1)
    if rows is not None and rows % len(devices):
        near = -(-rows // len(devices)) * len(devices)
        raise InputError(
            f"--batch={rows} cannot be split over {len(devices)} devices; give a multiple, as --batch={near}"
        )
    wanted = rows or len(devices) * usual
    return Room(devices, min(wanted, -(-runs // len(devices)) * len(devices)))


def draw_ahead(loops: Sequence[Loop[Any]], pipeline: Pipeline, room: Room | None = None) -> Iterator[list[Outcome]]:
    """Yields batches of loops whose views are drawn; those after it are under way on the devices meanwhile.

    Args:
        loops: At their beginning. Those that need no drawing come first.
        pipeline: Draws for all of them.
        room: From `make_room`.
    """
    room = room or make_room(pipeline, len(loops))
    waiting, ended = [], []
    for loop in loops:
        error = _to_drawing(loop)
        (waiting if error is None and _draws(loop) else ended).append((loop, error))
    if ended:
        yield ended
    batches = _in_batches([loop for loop, _ in waiting], _kind, room.rows)
    yield from staggered(batches, lambda batch: _draw(batch, room.batch))


def staggered(batches: Iterable[T], begin: Callable[[T], Generator[None, None, R]]) -> Iterator[R]:
    """Results of batches in order, while the devices always have the next drawing to do.

    Args:
        batches: To draw.
        begin: The drawings of a batch. It pauses after it has given the devices a drawing, and waits for that drawing
            when it goes on. The first drawing of each batch is given to the devices before the second of the one
            before it, and so on: while the host looks at one result, the devices work on another.
    """
    going: collections.deque[_Drawing[R]] = collections.deque()
    for batch in batches:
        going.append(_Drawing(begin(batch)))
        yield from _advance(going)
    while going:
        yield from _advance(going)


class _Drawing(Generic[R]):
    """A batch under way."""

    def __init__(self, steps: Generator[None, None, R]):
        self._steps = steps
        self.results: list[R] = []

    def advance(self) -> None:
        """To the next drawing, or to the result."""
        try:
            if not self.results:
                next(self._steps)
        except StopIteration as end:
            self.results.append(end.value)


def _advance(going: collections.deque[_Drawing[R]]) -> Iterator[R]:
    """Takes each batch one drawing further, the newest first; those at the front that are done leave."""
    for drawing in reversed(going):
        drawing.advance()
    while going and going[0].results:
        yield going.popleft().results[0]


def _draws(loop: Loop[Any]) -> bool:
    return loop.stage is not None and loop.stage.early and isinstance(loop.stage.work, Draw)


def _drawing_of(loop: Loop[Any]) -> tuple[Stage[Any], Draw]:
    """The next stage and its work, where `_draws` holds."""
    assert loop.stage is not None and isinstance(loop.stage.work, Draw)
    return loop.stage, loop.stage.work


def _kind(loop: Loop[Any]) -> Any:
    stage, work = _drawing_of(loop)
    return stage.name, work.key


def _to_drawing(loop: Loop[Any]) -> InputError | None:
    """Takes a loop to its next drawing, past what is finished and what the host does alone; the error if that fails."""
    try:
        while loop.stage is not None and loop.stage.early and (loop.runner.finished(loop.stage) or not _draws(loop)):
            loop.advance()
    except OWN_ERRORS as error:
        return error
    return None


def _in_batches(items: Iterable[T], kind: Callable[[T], Any], size: int) -> list[list[T]]:
    """Cuts items into batches of at most `size` whose items agree in `kind`; order is kept within a kind."""
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(kind(item), []).append(item)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]


def _draw(loops: list[Loop[Any]], batch: Batch) -> Generator[None, None, list[Outcome]]:
    """Draws for loops of one kind until each has its views; see `staggered`."""
    outcomes: list[Outcome] = []
    while loops:
        works = [_drawing_of(loop)[1] for loop in loops]
        inputs = [[ref.get() for ref in _drawing_of(loop)[0].inputs] for loop in loops]
        try:
            drawing = works[0].start(works, inputs, batch, None)
        except OWN_ERRORS as error:
            return outcomes + [(loop, error) for loop in loops]
        yield
        going = []
        for loop, error in _take(loops, drawing):
            error = error or (_to_drawing(loop) if works[0].waits else None)
            if error is None and works[0].waits and _draws(loop):
                going.append(loop)
            else:
                outcomes.append((loop, error))
        loops = going
    return outcomes


def _take(loops: Sequence[Loop[Any]], drawing: Callable[[], Sequence[Drawn | InputError]]) -> list[Outcome]:
    """Gives each loop what was drawn for it."""
    try:
        results = drawing()
    except OWN_ERRORS as error:
        return [(loop, error) for loop in loops]
    outcomes: list[Outcome] = []
    for loop, drawn in zip(loops, results, strict=True):
        if isinstance(drawn, InputError):
            outcomes.append((loop, drawn))
            continue
        try:
            loop.advance(Result(drawn.images, drawn.evaluations, drawn.remarks))
            outcomes.append((loop, None))
        except OWN_ERRORS as error:
            outcomes.append((loop, error))
    return outcomes
