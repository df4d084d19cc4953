"""What a training run writes down: metrics.jsonl without a step twice, TensorBoard, rates and memory."""

from __future__ import annotations

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.atomic import write_whole


class MetricsLog:
    """`metrics.jsonl` of a run folder, and TensorBoard's files where its writer is installed; process 0 writes.

    Args:
        folder: Of the run.
        step: Where the run begins: lines of later steps, of a run that was killed after its last checkpoint, go.
        tensorboard: Whether to write TensorBoard's files too.

    Attributes:
        tensorboard: Whether they are written.
    """

    def __init__(self, folder: str | os.PathLike, *, step: int = 0, tensorboard: bool = False):
        self._writer = None
        self._file = None
        self.tensorboard = False
        if jax.process_index() != 0:
            return
        path = pathlib.Path(folder) / "metrics.jsonl"
        kept = [line for line in _lines(path) if line["step"] <= step]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter  # type: ignore[import-not-found]  # of an extra
            except ImportError:
                return
            self._writer = SummaryWriter(str(pathlib.Path(folder) / "tensorboard"), purge_step=step + 1)
            self.tensorboard = True

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """One line: the step and its figures."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture [H, W, 3] float32 in [0, 1] for TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(name, image, step, dataformats="HWC")


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Whole lines of a file; a process that was killed may have left a part of one."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict) and isinstance(line.get("step"), int)]


# Dense bfloat16 without sparsity, TFLOP/s of one device (vendors' data sheets).
PEAK_TFLOPS = {
    "NVIDIA H100": 989.0, "NVIDIA H200": 989.0, "NVIDIA A100": 312.0, "TPU v4": 275.0, "TPU v5 lite": 197.0,
    "TPU v5p": 459.0, "TPU v6 lite": 918.0,
}  # fmt: skip


def peak_tflops(kind: str) -> float | None:
    """Peak of a device kind, or None where it is not in the table."""
    return next((value for name, value in PEAK_TFLOPS.items() if kind.startswith(name)), None)


def peak_memory_gib() -> float | None:
    """Most memory that the allocator of the first local device has held, GiB; None on CPUs."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return None if peak is None else peak / 2**30


class Piece:
    """Sums of the metrics since the last line; a checkpoint keeps them, so that a resumed run logs the same means.

    Args:
        sums: As `to_json` gave them.
        count: Steps of the sums.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, count: int = 0):
        self._sums = {name: jnp.float32(value) for name, value in sums.items()} if sums else None
        self._count, self._timed, self._since = count, 0, time.monotonic()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Counts a step."""
        self._sums = metrics if self._sums is None else _add(self._sums, metrics)
        self._count, self._timed = self._count + 1, self._timed + 1

    def seconds(self) -> float:
        """Of a step of this process, once all are done."""
        jax.block_until_ready(self._sums)
        return (time.monotonic() - self._since) / max(1, self._timed)

    def means(self) -> dict[str, float]:
        """Means over the steps."""
        assert self._sums is not None
        return {name: float(value) / self._count for name, value in jax.device_get(self._sums).items()}

    def to_json(self) -> dict[str, Any]:
        """What `Piece(**...)` takes."""
        sums = {} if self._sums is None else jax.device_get(self._sums)
        return {"sums": {name: jsonable(float(value)) for name, value in sums.items()}, "count": self._count}


@jax.jit
def _add(sums: dict[str, jax.Array], metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return jax.tree.map(jnp.add, sums, metrics)


def progress_line(step: int, total: int, figures: Mapping[str, float]) -> str:
    """A line for the user: the figures, and how long the rest of the run takes."""
    left = (total - step) * figures["ms_per_step"] / 1e3
    shown = " ".join(f"{name}={value:.4g}" for name, value in figures.items() if name != "seconds")
    return f"step {step}/{total}, about {_duration(left)} left: {shown}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def jsonable(value: Any) -> Any:
    """A value that JSON can hold: what is not finite as text, which `float` and numpy read back."""
    if isinstance(value, Mapping):
        return {name: jsonable(each) for name, each in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
