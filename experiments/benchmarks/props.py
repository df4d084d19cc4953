"""Turntables of props a second, by the number of processes that draw them.

    python -m experiments.benchmarks.props --pack=props.meshpack --processes=1,2 --seconds=20

Prints a table with a row for each number of processes; --json=FILE keeps the same. The first --warm examples of each
process are not counted: they read meshes, and compile shaders. With --gpus=2, processes take turns on the EGL devices.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Sequence

from absl import flags

from experiments.benchmarks.timing import machine
from experiments.programs import Program
from im3d_jax.data.props import PropProcesses, PropTurntables
from im3d_jax.errors import InputError, input_errors
from im3d_jax.number_flags import define_float, define_integer


@dataclasses.dataclass(frozen=True)
class Rate:
    """What was measured with a number of processes.

    Attributes:
        processes: That drew.
        device: Who drew: the name of the GPU, or llvmpipe.
        start_s: Until all processes have a context.
        turntables_per_s: Delivered to this process.
        milliseconds: Of one process for one turntable.
    """

    processes: int
    device: str
    start_s: float
    turntables_per_s: float
    milliseconds: float


def measure(turntables: Sequence[PropTurntables], processes: int, *, seconds: float, warm: int) -> Rate:
    """Rate of a number of processes.

    Args:
        turntables: What to draw: one set for each GPU.
        processes: How many, over all GPUs.
        seconds: To measure for.
        warm: Examples of each process that are not counted.

    Raises:
        InputError: See `PropProcesses`.
    """
    begun = time.perf_counter()
    shares = [processes // len(turntables) + (i < processes % len(turntables)) for i in range(len(turntables))]
    drawers = [PropProcesses(each, share) for each, share in zip(turntables, shares, strict=True) if share]
    started = time.perf_counter() - begun
    try:
        threads = [drawer for drawer, share in zip(drawers, filter(None, shares), strict=True) for _ in range(share)]
        numbers = itertools.count()
        with concurrent.futures.ThreadPoolExecutor(processes) as pool:

            def draw(drawer: PropProcesses, until: float, most: float) -> int:
                done = 0
                while done < most and time.perf_counter() < until:
                    drawer[next(numbers) % len(drawer)]
                    done += 1
                return done

            list(pool.map(lambda drawer: draw(drawer, float("inf"), warm), threads))
            begun = time.perf_counter()
            done = sum(pool.map(lambda drawer: draw(drawer, begun + seconds, float("inf")), threads))
            taken = time.perf_counter() - begun
    finally:
        for drawer in drawers:
            drawer.close()
    return Rate(processes, drawers[0].device, started, done / taken, 1e3 * processes * taken / max(done, 1))


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    flags.DEFINE_string("pack", None, "pack of meshes", flag_values=values)
    flags.DEFINE_list("processes", ["1", "2"], "numbers of processes to compare", flag_values=values)
    define_integer("gpus", 1, "EGL devices to share the processes over", lower_bound=1, flag_values=values)
    define_float("seconds", 20.0, "to measure each for", lower_bound=0.1, flag_values=values)
    define_integer("warm", 20, "examples of each process before that", lower_bound=0, flag_values=values)
    define_integer("size", 256, "side of a picture", lower_bound=16, flag_values=values)
    define_integer("frames", 16, "frames of a turntable", lower_bound=1, flag_values=values)
    flags.DEFINE_string("json", None, "file to write", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Measures, prints the table and writes --json.

    Raises:
        InputError: A wrong flag, a pack that cannot be read, no OpenGL, or a file that cannot be written.
    """
    if not values.pack:
        raise InputError("--pack is missing; give a pack of meshes, for instance --pack=props.meshpack")
    if not values.processes or not all(text.isascii() and text.isdigit() and int(text) for text in values.processes):
        raise InputError(f"--processes={','.join(values.processes)}: expected numbers above 0, as in 1,4,16")
    gpus: list[int | None] = [None] if values.gpus == 1 else list(range(values.gpus))
    sets = [PropTurntables(values.pack, "train", size=values.size, frames=values.frames, gpu=gpu) for gpu in gpus]
    print("processes   start s   ms each   turntables/s   drawn by", flush=True)
    rates = []
    for text in values.processes:
        rate = measure(sets, int(text), seconds=values.seconds, warm=values.warm)
        rates.append(rate)
        figures = f"{rate.processes:9d} {rate.start_s:9.1f} {rate.milliseconds:9.1f} {rate.turntables_per_s:14.1f}"
        print(f"{figures}   {rate.device}", flush=True)
    if values.json:
        content = {"pack": values.pack, "size": values.size, "frames": values.frames}
        content |= {"rates": [dataclasses.asdict(rate) for rate in rates], **machine()}
        with input_errors(OSError):
            pathlib.Path(values.json).write_text(json.dumps(content, indent=1) + "\n")


PROGRAM = Program("benchmarks.props", define_flags, run, "nothing is written")


if __name__ == "__main__":
    PROGRAM.start()
