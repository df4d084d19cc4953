"""Examples a second that `Batches` delivers, beside what a training step needs.

    python -m experiments.benchmarks.loader --source=data/encoded --batch=16 --workers=0,4,8 --step_ms=323

--source is a folder of encoded turntables (`experiments.encode`), or what `experiments.build_tfds` takes: a folder of
turntables, a data set of tensorflow-datasets, toybox[:objects[:size[:frames]]] or
props:PACK[:objects[:size[:frames]]]. Prints a table with a row for each number of workers; --json=FILE keeps the same.
Files that were read before come from memory: a first run is the slow one.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from experiments.benchmarks.timing import machine
from experiments.programs import Program
from im3d_jax import environment
from im3d_jax.data.encoded import EXAMPLES, EncodedFolder
from im3d_jax.data.loading import Batches, ExampleSource
from im3d_jax.data.turntable import TurntableSet
from im3d_jax.data.turntable_sets import open_turntables
from im3d_jax.errors import InputError, input_errors
from im3d_jax.number_flags import define_float, define_integer
from im3d_jax.parallel import make_mesh
from im3d_jax.paths import define_path


@dataclasses.dataclass(frozen=True)
class Rate:
    """What was measured with a number of workers.

    Attributes:
        workers: Threads that read ahead.
        first_ms: Until the first batch; neither it nor those that were read ahead beside it are counted further.
        batch_ms: Mean of the later ones.
        examples_per_s: Delivered.
        megabytes_per_s: Of arrays delivered.
    """

    workers: int
    first_ms: float
    batch_ms: float
    examples_per_s: float
    megabytes_per_s: float


class TurntableExamples:
    """Pictures and angles of turntables as an `ExampleSource`."""

    def __init__(self, turntables: TurntableSet):
        self._turntables = turntables

    def __len__(self) -> int:
        return len(self._turntables)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        item = self._turntables[index]
        return {"rgba": item.rgba, "elevations": item.elevations, "azimuths": item.azimuths}


def open_source(spec: str) -> ExampleSource:
    """Encoded turntables, or any that `open_turntables` knows.

    Raises:
        InputError: Neither.
    """
    if (pathlib.Path(spec) / EXAMPLES).is_dir():
        return EncodedFolder(spec)
    return TurntableExamples(open_turntables(spec))


def measure(source: ExampleSource, *, batch: int, workers: int, batches: int) -> Rate:
    """Rate of one loader.

    Args:
        source: The examples.
        batch: Rows of a batch, split over all devices.
        workers: Threads that read ahead.
        batches: Batches to time, after those that are read ahead at the start.

    Raises:
        InputError: See `Batches`.
    """
    begun = time.perf_counter()
    loader = Batches(source, batch, seed=0, mesh=make_mesh(), workers=workers)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(jax.block_until_ready(next(loader))))
    first = time.perf_counter() - begun
    for _ in range(2 * max(1, workers)):  # those that are read ahead already
        next(loader)
    begun = time.perf_counter()
    for _ in range(batches):
        jax.block_until_ready(next(loader))
    seconds = (time.perf_counter() - begun) / batches
    return Rate(workers, 1e3 * first, 1e3 * seconds, batch / seconds, size / seconds / 1e6)


def table(rates: Sequence[Rate], needed: float | None) -> list[str]:
    """Lines of a table.

    Args:
        rates: Its rows.
        needed: Examples a second that the step takes, or None.
    """
    lines = ["workers   first ms   batch ms   examples/s     MB/s" + ("   of what a step needs" if needed else "")]
    for rate in rates:
        line = f"{rate.workers:7d} {rate.first_ms:10.1f} {rate.batch_ms:10.1f} "
        line += f"{rate.examples_per_s:12.1f} {rate.megabytes_per_s:8.1f}"
        lines.append(line + (f"   {rate.examples_per_s / needed:.2f} x {needed:.1f}/s" if needed else ""))
    return lines


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    flags.DEFINE_string("source", "toybox", "where the examples are, see above", flag_values=values)
    define_integer("batch", 16, "rows of a batch", lower_bound=1, flag_values=values)
    flags.DEFINE_list("workers", ["8"], "numbers of reading threads to compare", flag_values=values)
    define_integer("batches", 50, "batches to time", lower_bound=1, flag_values=values)
    define_float("step_ms", None, "milliseconds of a training step of this batch", flag_values=values)
    define_path("json", None, "file to write", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Measures, prints the table and writes --json.

    Raises:
        InputError: A wrong flag, a source that cannot be read, or a file that cannot be written.
    """
    if not values.workers or not all(text.isascii() and text.isdigit() for text in values.workers):
        raise InputError(f"--workers={','.join(values.workers)}: expected numbers, as in 0,4,8")
    if values.step_ms is not None and values.step_ms <= 0.0:
        raise InputError(f"--step_ms={values.step_ms}: expected more than 0")
    environment.start_jax()
    source = open_source(values.source)
    needed = None if values.step_ms is None else 1e3 * values.batch / values.step_ms
    rates = [
        measure(source, batch=values.batch, workers=int(workers), batches=values.batches) for workers in values.workers
    ]
    print("\n".join(table(rates, needed)))
    if values.json:
        content = {
            "source": values.source,
            "examples": len(source),
            "batch": values.batch,
            "batches": values.batches,
            "needed_examples_per_s": needed,
            "rates": [dataclasses.asdict(rate) for rate in rates],
            **machine(),
        }
        with input_errors(OSError):
            pathlib.Path(values.json).write_text(json.dumps(content, indent=1) + "\n")


PROGRAM = Program("benchmarks.loader", define_flags, run, "nothing is written")


if __name__ == "__main__":
    PROGRAM.start()
