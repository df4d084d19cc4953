"""Kernels of a program on an accelerator by the time they take, from a trace of XLA's profiler."""

from __future__ import annotations

import collections
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import jax

from im3d_jax.errors import InputError


# The first kind of which a word stands in a kernel's name, for kernels of cuDNN, cuBLAS and XLA itself.
KINDS = (
    ("attention", ("fmha", "flash", "sdpa", "attention")),
    ("convolution", ("conv", "fprop", "implicit")),
    ("matrix product", ("gemm", "dot", "cutlass", "nvjet", "cublas")),
    ("copy", ("memcpy", "copy", "transpose")),
    ("reduction", ("reduce", "softmax")),
    ("elementwise", ("fusion", "loop_")),
)


def kind_of(kernel: str) -> str:
    """What a kernel does, by its name; XLA calls a cast `convert`, which is no convolution."""
    name = kernel.lower().replace("convert", "")
    return next((kind for kind, words in KINDS if any(word in name for word in words)), "other")


def summarise(planes: Iterable[Any], calls: int, count: int) -> dict[str, Any]:
    """Milliseconds and launches of one call, from the planes of a trace of `calls` of them.

    Args:
        planes: As `jax.profiler.ProfileData` has them; only devices' streams are read.
        calls: Divides times and launches.
        count: Of the kernels listed by name.

    Returns:
        ``kernels_ms``, ``launches``, ``kinds_ms`` (by kind, the largest first) and ``top``: [name, operation of the
        compiled program, launches, ms] of the kernels that take longest.

    Raises:
        ValueError: No device's kernels are in the trace.
    """
    times, launches, operations = collections.Counter(), collections.Counter(), {}
    for plane in planes:
        if not plane.name.startswith("/device:"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                times[event.name] += event.duration_ns / 1e6 / calls
                launches[event.name] += 1
                operations.setdefault(event.name, str(dict(event.stats).get("hlo_op", "")))
    if not times:
        raise ValueError("the trace holds no kernels of a device: profiling needs a GPU")
    kinds = collections.Counter()
    for name, value in times.items():
        kinds[kind_of(name)] += value
    top = [[name, operations[name], launches[name] / calls, value] for name, value in times.most_common(count)]
    return {
        "kernels_ms": sum(times.values()),
        "launches": sum(launches.values()) / calls,
        "kinds_ms": dict(kinds.most_common()),
        "top": top,
    }


def kernels(call: Callable[[], Any], count: int, calls: int = 3) -> dict[str, Any]:
    """Traces a compiled, warm call and lists its kernels.

    Args:
        call: Returns arrays.
        count: Kernels listed by name.
        calls: That are traced.

    Returns:
        See `summarise`.

    Raises:
        InputError: The device has no kernels to list.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                jax.block_until_ready(call())
        files = list(pathlib.Path(folder).rglob("*.xplane.pb"))
        planes = [plane for file in files for plane in jax.profiler.ProfileData.from_file(str(file)).planes]
        try:
            return summarise(planes, calls, count)
        except ValueError as error:
            raise InputError(f"--kernels: {error}") from None
