"""Contact sheet of Toybox objects with their captions.

    python -m experiments.toybox --out=sheet.png --split=train --count=64 [--noun=mug]

Each tile is the view of frame 0 at the object's own elevation.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from PIL import Image, ImageDraw

from experiments.programs import Program
from im3d_jax.data import toybox
from im3d_jax.errors import InputError, input_errors
from im3d_jax.images.alpha import composite
from im3d_jax.images.files import to_bytes
from im3d_jax.number_flags import define_integer
from im3d_jax.paths import define_path
from splat import orbit_cameras


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    define_path("out", "toybox.png", "image file to write", flag_values=values)
    flags.DEFINE_enum("split", "train", ["train", "test"], "split to draw from", flag_values=values)
    define_integer("count", 64, "number of objects", lower_bound=1, flag_values=values)
    define_integer("start", 0, "first index", lower_bound=0, flag_values=values)
    flags.DEFINE_string("noun", None, "only objects of this noun", flag_values=values)
    flags.DEFINE_bool(
        "fronts", False, "instead: one object of every noun, front and three-quarter back", flag_values=values
    )
    define_integer("views", 1, "views of each object around it", lower_bound=1, flag_values=values)
    define_integer("size", 128, "side of a tile in pixels", lower_bound=8, flag_values=values)


def draw(objects: Sequence[toybox.ToyObject], *, views: int, size: int) -> np.ndarray:
    """Draws objects on white, each at its own elevation.

    Args:
        objects: n objects.
        views: Views of each object, evenly spaced in azimuth from frame 0.
        size: Side in pixels.

    Returns:
        [n, views, size, size, 3] uint8.
    """

    @jax.jit
    def one(toy: toybox.ToyObject) -> jax.Array:
        cameras = orbit_cameras(toy.elevation, views=views, width=size, height=size)
        return composite(toybox.render_object(toy, cameras))

    return to_bytes(np.stack([np.asarray(one(toy)) for toy in objects]))


def contact_sheet(frames: np.ndarray, captions: Sequence[str], columns: int) -> Image.Image:
    """Tiles objects, the views of one side by side, with the caption below.

    Args:
        frames: [n, views, H, W, 3] uint8.
        captions: n captions.
        columns: Objects in a row.
    """
    count, views, height, width, _ = frames.shape
    rows, label = math.ceil(count / columns), 38
    sheet = Image.new("RGB", (columns * views * width, rows * (height + label)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (strip, caption) in enumerate(zip(frames, captions, strict=True)):
        x, y = number % columns * views * width, number // columns * (height + label)
        for view, frame in enumerate(strip):
            sheet.paste(Image.fromarray(frame), (x + view * width, y))
        lines = textwrap.wrap(caption, max(views * width // 6, 8))[:3]
        pen.text((x + 2, y + height), "\n".join(lines), fill="black", font_size=10)
    return sheet


def _choose(values: flags.FlagValues) -> tuple[list[str], list[toybox.ToyObject], int]:
    """Captions, objects and the number of columns."""
    if values.fronts:
        colours = tuple(toybox.COLOURS)
        items = [
            toybox.describe(noun=noun, colour=colours[number % 9], yaw=yaw, size="large")
            for number, noun in enumerate(toybox.NOUNS)
            for yaw in (0.0, math.radians(-140.0))
        ]
        return [caption for caption, _ in items], [toy for _, toy in items], 12
    box = toybox.Toybox(values.split)
    chosen: list[int] = []
    for index in range(values.start, len(box)):
        if values.noun is None or box.scene(index).main.noun == values.noun:
            chosen.append(index)
        if len(chosen) == values.count:
            break
    if not chosen:
        raise InputError(f"--start={values.start}: no such object from there on; the split has {len(box)} objects")
    items = [box.item(index) for index in chosen]
    return [caption for caption, _ in items], [toy for _, toy in items], max(1, 8 // values.views)


def run(values: flags.FlagValues) -> None:
    """Writes the sheet.

    Raises:
        InputError: An unknown noun, an index beyond the split, or a file that cannot be written.
    """
    if values.noun is not None and values.noun not in toybox.NOUNS:
        raise InputError(f"--noun={values.noun} is unknown; expected one of {', '.join(toybox.NOUNS)}")
    captions, objects, columns = _choose(values)
    frames = draw(objects, views=values.views, size=values.size)
    with input_errors(OSError, ValueError):
        contact_sheet(frames, captions, columns).save(values.out)


PROGRAM = Program("toybox", define_flags, run, "nothing is written")


if __name__ == "__main__":
    PROGRAM.start()
