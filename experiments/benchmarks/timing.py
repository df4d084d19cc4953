"""What the benchmarks share: times, memory, the machine, JSON lines, and what peers need to run."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from im3d_jax.errors import InputError, input_errors


Case = TypeVar("Case")


def timed(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Times a call; each time is waited for.

    Args:
        call: Returns arrays, or waits itself.
        repeats: Timed calls, after three to warm up.

    Returns:
        `median_ms` and `min_ms`.
    """
    for _ in range(3):
        jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - begun))
    return {"median_ms": statistics.median(times), "min_ms": min(times)}


def machine() -> dict[str, str]:
    """The device, the versions of JAX and Python, and XLA's flags where there are any."""
    made = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "python": sys.version.split()[0]}
    return made | ({"xla_flags": os.environ["XLA_FLAGS"]} if os.environ.get("XLA_FLAGS") else {})


def peak_gib() -> float | None:
    """Peak device memory of this process so far, GiB; None where the device does not count."""
    figures = jax.devices()[0].memory_stats()
    return None if not figures else figures["peak_bytes_in_use"] / 2**30


def program_gib(compiled: jax.stages.Compiled) -> float:
    """Memory of a compiled program: arguments, results and temporaries, GiB."""
    sizes = compiled.memory_analysis()
    assert sizes is not None, "all backends of JAX count the memory of a program"
    return (sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes) / 2**30


class Lines:
    """Prints JSON lines, and appends them to a file.

    Args:
        path: Of the file, or None.

    Raises:
        InputError: The file cannot be written.
    """

    def __init__(self, path: str | None = None):
        self._path = path
        if path:
            with input_errors(OSError), open(path, "a"):
                pass

    def write(self, line: Mapping[str, Any]) -> None:
        """Writes one line; fractions are rounded to six significant digits."""
        rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in line.items()}
        self.write_text(json.dumps(rounded))

    def write_text(self, text: str) -> None:
        """Writes one line as it is."""
        print(text, flush=True)
        if self._path:
            with open(self._path, "a") as file:
                file.write(text + "\n")

    def measure(
        self, cases: Iterable[Case], run: Callable[[Case], Mapping[str, Any]], name: Callable[[Case], Mapping[str, Any]]
    ) -> None:
        """Writes a line for each case; one that fails (too little memory, say) has an `error`, and the next one runs.

        Args:
            cases: What to measure.
            run: The line of a case.
            name: What the line of a case that failed says beside the error.
        """
        for case in cases:
            try:
                line = run(case)
            except (jax.errors.JaxRuntimeError, InputError) as error:
                line = {**name(case), "error": first_line(error)}
            self.write({**line, **machine()})


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 300 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def require_cuda(flag: str, package: str) -> None:
    """Checks that a package that is timed beside ours can run, and leaves it memory; before JAX's first use.

    Args:
        flag: What asks for it, for the message.
        package: Runs on PyTorch.

    Raises:
        InputError: It is not installed, or PyTorch finds no CUDA device.
    """
    require_one_of(flag, [package])
    require_one_of(flag, ["torch"])
    import torch  # pyright: ignore[reportMissingImports] (only beside a peer)

    if not torch.cuda.is_available():
        raise InputError(f"{flag}: PyTorch finds no CUDA device, which {package} is timed on; leave the flag away")
    # JAX would take three quarters of the device at its first use and leave PyTorch the rest.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def require_one_of(flag: str, packages: Sequence[str]) -> None:
    """Checks that a package is installed.

    Args:
        flag: What asks for it, for the message.
        packages: Any of them will do.

    Raises:
        InputError: None of them is installed.
    """
    if not any(importlib.util.find_spec(package) for package in packages):
        raise InputError(f"{flag}: {' and '.join(packages)} is not installed here; install {' or '.join(packages)}")
