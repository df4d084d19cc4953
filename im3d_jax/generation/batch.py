"""Many runs at once: what their networks draw is drawn in batches over all devices, all else one run after the other.

The loops are those of single runs (`loop`): a batch gathers the drawings that they wait for and gives each its result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax

from im3d_jax import parallel
from im3d_jax.errors import ImageError, InputError, WeightsError
from im3d_jax.generation.runners import Loop
from im3d_jax.generation.stages import Draw, Result, Stage
from im3d_jax.pipelines import Batch, Drawn, Pipeline
from im3d_jax.typing import Device


T = TypeVar("T")
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
    """Yields batches of loops whose views are drawn; the next batch is under way on the devices meanwhile.

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
    yield from one_ahead(batches, lambda batch: _start(batch, room.batch))


def one_ahead(batches: Iterable[T], start: Callable[[T], Callable[[], Any]]) -> Iterator[Any]:
    """Results of batches in order; one batch more is started before the results of a batch are waited for."""
    waiting = None
    for batch in batches:
        finish = start(batch)
        if waiting is not None:
            yield waiting()
        waiting = finish
    if waiting is not None:
        yield waiting()


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


def _start(loops: list[Loop[Any]], batch: Batch) -> Callable[[], list[Outcome]]:
    """Draws for loops of one kind until each has its views under way; returns what waits for these."""
    failed: list[Outcome] = []
    while loops:
        works = [_drawing_of(loop)[1] for loop in loops]
        inputs = [[ref.get() for ref in _drawing_of(loop)[0].inputs] for loop in loops]
        try:
            drawing = works[0].start(works, inputs, batch, None)
        except OWN_ERRORS as error:
            failed += [(loop, error) for loop in loops]
            break
        if not works[0].waits:
            return lambda loops=loops: [*failed, *_take(loops, drawing)]
        going = []
        for loop, error in _take(loops, drawing):
            error = error or _to_drawing(loop)
            if error is not None or not _draws(loop):
                failed.append((loop, error))
            else:
                going.append(loop)
        loops = going
    return lambda: failed


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
