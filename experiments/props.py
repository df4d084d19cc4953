"""Contact sheets of props with their captions, and the catalogue of a pack.

    python -m experiments.props --pack=props.meshpack --out=sheet.png [--split=train] [--count=64] [--views=1]
    python -m experiments.props --pack=props.meshpack --catalogue=catalogue.tsv

A tile of a sheet is the view of frame 0. --catalogue measures the objects of a pack under their reviewed names; its
text is that of `im3d_jax/data/props/catalogue.tsv`, which needs it anew where names or meshes change.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import flags

from experiments.programs import Program
from experiments.toybox import contact_sheet
from im3d_jax.data.meshes.pack import MeshPack
from im3d_jax.errors import InputError, input_errors
from im3d_jax.images.alpha import composite
from im3d_jax.images.files import to_bytes
from im3d_jax.number_flags import define_integer


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    flags.DEFINE_string("pack", None, "pack of meshes", flag_values=values)
    flags.DEFINE_string("out", None, "image file to write", flag_values=values)
    flags.DEFINE_string("catalogue", None, "table to write, in place of a sheet", flag_values=values)
    flags.DEFINE_enum("split", "train", ["train", "test"], "split to draw from", flag_values=values)
    define_integer("count", 64, "number of examples", lower_bound=1, flag_values=values)
    define_integer("start", 0, "first index", lower_bound=0, flag_values=values)
    flags.DEFINE_string("word", None, "only captions with this word", flag_values=values)
    define_integer("views", 1, "views of each example around it", lower_bound=1, flag_values=values)
    define_integer("size", 128, "side of a tile in pixels", lower_bound=16, flag_values=values)
    define_integer("seed", 0, "of the examples", lower_bound=0, flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Writes the sheet or the catalogue.

    Raises:
        InputError: A wrong flag, a pack that cannot be read, no OpenGL, or a file that cannot be written.
    """
    if not values.pack or bool(values.out) == bool(values.catalogue):
        raise InputError(
            "expected --pack, and either --out or --catalogue, as in --pack=props.meshpack --out=sheet.png"
        )
    if values.catalogue:
        from im3d_jax.data.props.measuring import measure_pack, write_catalogue

        text = write_catalogue(measure_pack(MeshPack(values.pack)))
        with input_errors(OSError):
            pathlib.Path(values.catalogue).write_text(text, "utf-8")
        return
    from im3d_jax.data.props import PropTurntables

    box = PropTurntables(values.pack, values.split, size=values.size, frames=values.views, seed=values.seed)
    indices = []
    for index in range(values.start, len(box)):
        if values.word is None or values.word in box.caption(index).split():
            indices.append(index)
        if len(indices) == values.count:
            break
    if not indices:
        raise InputError(f"--start={values.start}: no such example from there on; the split has {len(box)} examples")
    items = [box[index] for index in indices]
    frames = to_bytes(np.stack([composite(item.rgba / 255.0) for item in items]))
    with input_errors(OSError, ValueError):
        sheet = contact_sheet(frames, [item.caption for item in items], max(1, 16 // values.views))
        sheet.save(values.out)


PROGRAM = Program("props", define_flags, run, "nothing is written")


if __name__ == "__main__":
    PROGRAM.start()
