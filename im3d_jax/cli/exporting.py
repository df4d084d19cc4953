"""Shared by `im3d view` and `im3d export`: the source, and the file or folder to write."""

from __future__ import annotations

import os
import pathlib
import sys
import warnings
from typing import TYPE_CHECKING

from absl import flags

from im3d_jax.errors import InputError
from im3d_jax.paths import expand


if TYPE_CHECKING:
    from im3d_jax.exports.videos import VideoSettings


def define_up(values: flags.FlagValues) -> None:
    """The flag that says how the gaussians stand."""
    flags.DEFINE_enum(
        "up", None, ("z", "y", "-y"), "direction that is up in a .ply, .sog or .splat file: z for this program and "
        "Blender (default), -y for COLMAP and most captures", flag_values=values,
    )  # fmt: skip


def take_source(values: flags.FlagValues, arguments: list[str]) -> list[str]:
    """Takes the source from the arguments without a name; returns the others."""
    if values.source is not None or arguments[0].startswith("-"):
        return arguments
    values.source = expand(arguments[0])
    return arguments[1:]


def source_of(values: flags.FlagValues, example: str) -> str:
    """The run folder or file.

    Raises:
        InputError: None is given.
    """
    if not values.source:
        raise InputError(f"no source; give a run folder or a file of gaussians, for example {example}")
    return values.source


def write(
    source: str, kind: str, out: str, up: str | None, *, overwrite: bool, video: VideoSettings | None = None
) -> None:
    """Exports and prints what was written.

    The page of a run without views stays as the run wrote it: one made of its gaussians alone would show less.

    Args:
        source: Run folder or file.
        kind: One of `KINDS` of `im3d_jax.exports.kinds`.
        out: File or folder to write.
        up: Direction that is up in the source.
        overwrite: Whether `out` may exist.
        video: Of turntables.

    Raises:
        InputError: The source cannot be read, or `out` cannot be written.
    """
    from im3d_jax import environment
    from im3d_jax.exports import kinds
    from im3d_jax.exports.source import check_source, has_views, open_source
    from im3d_jax.output.run_files import RESULTS

    check_source(source)
    folder, inside = pathlib.Path(os.path.realpath(source)), pathlib.Path(os.path.realpath(out))
    if inside == folder:
        raise InputError(f"--out={out} is the source itself; give another --out")
    if kind == "html" and is_own_page(source, out):
        if inside.is_file() and not has_views(folder):
            print(f"{out}: the page that the run wrote")
            return
    elif folder.is_dir() and any(inside.is_relative_to(folder / name) for name in RESULTS):
        raise InputError(f"--out={out} would replace a result of the run; give another --out")
    place = kinds.check_out(out, kind, overwrite=overwrite)
    # Files of gaussians alone need no views, and no accelerator.
    drawn = kind in (*kinds.VIDEOS, *kinds.FOLDERS, "html")
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", UserWarning)
        if drawn:
            environment.start_jax()  # before the views, whose cameras are JAX arrays
        opened = open_source(source, up, views=drawn)
        size = kinds.export(opened, kind, place, video)
    for remark in dict.fromkeys(str(each.message) for each in remarks if each.category is UserWarning):
        print(f"im3d: {remark}", file=sys.stderr)
    left = f" ({opened.left_out} left out: not drawable)" if opened.left_out else ""
    print(f"{out}: {size / 1e6:.2f} MB, {len(opened.rows):,} gaussians{left}")


def is_own_page(source: str, out: str) -> bool:
    """Whether `out` is the page of the run folder `source`."""
    from im3d_jax.output.run_files import PAGE

    return os.path.isdir(source) and os.path.realpath(out) == os.path.join(os.path.realpath(source), PAGE)
