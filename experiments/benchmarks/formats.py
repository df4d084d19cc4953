"""Sizes and quality of every format for one asset; one JSON line a format, or a table.

    python -m experiments.benchmarks.formats --source=runs/lego/asset.ply --table

Each format is written, read again and rendered from 16 cameras around the asset. PSNR compares with renders of the
source itself, on white, at most 100 dB, mean over the pictures. Seconds are wall time of one write and one read,
the file system included.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import time
import warnings

import numpy as np
from absl import flags

from experiments.programs import Program
from im3d_jax.errors import InputError
from im3d_jax.exports.kinds import GAUSSIANS, export
from im3d_jax.exports.orbits import orbit_of
from im3d_jax.exports.source import Source, open_source
from im3d_jax.images.alpha import composite
from im3d_jax.images.metrics import psnr
from im3d_jax.number_flags import define_integer
from im3d_jax.output.renders import render_views
from im3d_jax.paths import define_path
from splat import Cameras
from splat.io.files import Rows, on_device


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    define_path("source", None, "run folder or file of gaussians", flag_values=values)
    define_integer("size", 512, "pixels of the pictures", lower_bound=16, flag_values=values)
    define_integer("views", 16, "cameras", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("page", True, "also the page (size alone)", flag_values=values)
    flags.DEFINE_bool("table", False, "print a table in Markdown", flag_values=values)


def measure(source: Source, views: int, size: int, *, page: bool = True) -> list[dict[str, float | str]]:
    """One row for each format.

    Args:
        source: The asset.
        views: Cameras.
        size: Pixels of the pictures.
        page: Whether to write the page too.
    """
    cameras = orbit_of(source).cameras(views, size, size)
    true = composite(render_views(on_device(source.rows), cameras))
    found = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for kind in (*GAUSSIANS, *(["html"] if page else [])):
            path = pathlib.Path(folder) / f"a{'.html' if kind == 'html' else GAUSSIANS[kind][0]}"
            started = time.monotonic()
            written = export(source, kind, path)
            row: dict[str, float | str] = {
                "format": kind,
                "bytes": written,
                "bytes_a_gaussian": round(written / len(source.rows), 1),
                "write_s": round(time.monotonic() - started, 2),
            }
            if kind != "html":
                started = time.monotonic()
                back = open_source(str(path), source.up).rows
                row["read_s"] = round(time.monotonic() - started, 2)
                row["psnr"] = round(_psnr(back, cameras, true), 2)
            found.append(row)
    return found


def _psnr(rows: Rows, cameras: Cameras, true: np.ndarray) -> float:
    return float(psnr(composite(render_views(on_device(rows), cameras)), true).mean())


def run(values: flags.FlagValues) -> None:
    """Measures and prints.

    Raises:
        InputError: No source is given, or it cannot be read.
    """
    if not values.source:
        raise InputError("--source is missing; give a run folder or a file of gaussians")
    source = open_source(values.source)
    rows = measure(source, values.views, values.size, page=values.page)
    if not values.table:
        for row in rows:
            print(json.dumps(row))
        return
    print(f"{len(source.rows):,} gaussians of degree {source.rows.sh_degree}\n")
    print("| `--to` | MB | bytes a gaussian | PSNR, dB | write, s | read, s |\n|---|---|---|---|---|---|")
    for row in rows:
        numbers = [f"{float(row['bytes']) / 1e6:.2f}", str(row["bytes_a_gaussian"])]
        numbers += [str(row.get(name, "")) for name in ("psnr", "write_s", "read_s")]
        print(f"| `{row['format']}` | {' | '.join(numbers)} |")


PROGRAM = Program("benchmarks.formats", define_flags, run, "nothing is written")


if __name__ == "__main__":
    PROGRAM.start()
