"""Shared by `im3d view` and `im3d export`: what is exported, and where to."""

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
    """Takes what is exported from the arguments without a name; returns the others."""
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
        raise InputError(f"nothing to export is given; give a run folder or a file of gaussians: {example}")
    return values.source


def default_out(source: str, kind: str) -> str:
    """See `im3d_jax.exports.kinds.default_out`."""
    from im3d_jax.exports import kinds

    return kinds.default_out(source, kind)


def write(
    source: str,
    kind: str,
    out: str,
    up: str | None,
    *,
    overwrite: bool,
    own: bool = False,
    video: VideoSettings | None = None,
) -> None:
    """Exports and prints what was written.

    Args:
        source: Run folder or file.
        kind: One of `KINDS` of `im3d_jax.exports.kinds`.
        out: File or folder to write.
        up: Direction that is up in the source.
        overwrite: Whether `out` may be there.
        own: Whether `out` is the run's own file of this kind.
        video: Of turntables.

    Raises:
        InputError: The source cannot be read, or `out` cannot be written.
    """
    from im3d_jax import environment
    from im3d_jax.exports import kinds
    from im3d_jax.exports.source import open_source
    from im3d_jax.output.run_files import RESULTS

    if os.path.realpath(out) == os.path.realpath(source):
        raise InputError(f"--out={out} is what is exported; give another --out")
    inside = pathlib.Path(os.path.realpath(out))
    if os.path.isdir(source) and not own:
        taken = [name for name in RESULTS if inside.is_relative_to(pathlib.Path(os.path.realpath(source)) / name)]
        if taken:
            raise InputError(f"--out={out} is among the results of the run, which needs its own; give another --out")
    if not os.path.exists(source):
        open_source(source)
    place = kinds.check_out(out, kind, overwrite=overwrite)
    # Files of gaussians alone need no views, and no accelerator.
    drawn = kind in (*kinds.VIDEOS, *kinds.FOLDERS, "html")
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", UserWarning)
        opened = open_source(source, up, views=drawn)
        if drawn:
            environment.start_jax()
        size = kinds.export(opened, kind, place, video)
    for remark in dict.fromkeys(str(each.message) for each in remarks if each.category is UserWarning):
        print(f"im3d: {remark}", file=sys.stderr)
    left = f", {opened.left_out} that cannot be drawn left out" if opened.left_out else ""
    print(f"{out}: {size / 1e6:.2f} MB, {len(opened.rows):,} gaussians{left}")
