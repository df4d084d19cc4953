"""Batches of examples for training: shuffled, sharded by process, resumable on another number of processes.

The order is a function of the seed alone: the k-th batch holds the same examples however many processes there are. A
source offers random access; grain shuffles, reads ahead in threads and keeps the position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from im3d_jax.errors import InputError
from im3d_jax.parallel import batch_sharding


Example = Mapping[str, np.ndarray]
# Number of an example in the order in which the run draws them; what is random about it follows from this number.
DRAW = "draw"


class ExampleSource(Protocol):
    """Examples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """Arrays of one example, without an axis of rows."""
        ...


class Batches:
    """An endless iterator of global batches.

    Args:
        source: The examples.
        batch: Rows over all processes.
        seed: Of the order.
        mesh: Over which the rows are split.
        workers: Threads that read ahead in each process; 0 reads in the iterating one.
        start: Number of the first batch: that of a checkpoint, for a run that resumes.

    Raises:
        InputError: No examples, or a batch that cannot be split over the processes and devices.
    """

    def __init__(self, source: ExampleSource, batch: int, *, seed: int, mesh: Mesh, workers: int = 8, start: int = 0):
        if not len(source):
            raise InputError("the data hold no example; render some first")
        processes = jax.process_count()
        if batch % mesh.size or batch % processes:
            raise InputError(f"a batch of {batch} cannot be split over {mesh.size} devices; give a multiple")
        self._sharding, self._local = batch_sharding(mesh), batch // processes
        self._batch, self._next = batch, start
        self._iterator = _iterate(source, batch, self._local, seed, workers, start)

    @property
    def position(self) -> int:
        """Number of the next batch; a checkpoint keeps it."""
        return self._next

    def __iter__(self) -> Iterator[dict[str, jax.Array]]:
        return self

    def __next__(self) -> dict[str, jax.Array]:
        """Arrays [batch, ...] on the devices, among them `DRAW` [batch] int32: the numbers of the examples drawn."""
        rows = next(self._iterator)
        self._next += 1

        def make(leaf: np.ndarray) -> jax.Array:
            return jax.make_array_from_process_local_data(self._sharding, np.ascontiguousarray(leaf))

        return jax.tree.map(make, dict(rows))


def _iterate(
    source: ExampleSource, batch: int, local: int, seed: int, workers: int, start: int
) -> Iterator[Mapping[str, np.ndarray]]:
    """Local rows of the batches from number `start` on."""
    # Imported here: machines that only draw need not have it.
    import grain

    process = jax.process_index()
    dataset = grain.MapDataset.source(_Numbered(source)).seed(seed).shuffle().repeat()
    # Positions of this process in each global batch are contiguous: the global order of rows does not depend on how
    # many processes there are.
    places = _Places(len(source), batch, local, process)
    rows = grain.MapDataset.source(places).map(lambda place: _with_draw(dataset[place], place)).batch(local)
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * max(1, workers))
    iterator = iter(rows.to_iter_dataset(options))
    iterator.set_state({"next_index": start})
    return iterator


class _Numbered:
    """A source as grain wants it."""

    def __init__(self, source: ExampleSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        return self._source[int(index)]


class _Places:
    """The positions in the global order that one process reads: `local` of every `batch`, without end."""

    def __init__(self, examples: int, batch: int, local: int, process: int):
        self._batch, self._local, self._process = batch, local, process

    def __len__(self) -> int:
        return 2**62 // self._batch * self._local

    def __getitem__(self, index: int) -> int:
        batch, row = divmod(int(index), self._local)
        return batch * self._batch + self._process * self._local + row


def _with_draw(example: Example | None, place: int) -> dict[str, Any]:
    assert example is not None  # nothing filters
    return {**example, DRAW: np.int32(place % 2**31)}


def one_ahead(batches: Iterator[Any], transform: Callable[[Any], Any] = lambda value: value) -> Iterator[Any]:
    """Each value a step early, so that its transfer to the devices overlaps with the step before."""
    waiting = transform(next(batches))
    while True:
        following = transform(next(batches))
        yield waiting
        waiting = following
