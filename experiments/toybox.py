"""Contact sheet of Toybox objects with their captions.

    python -m experiments.toybox --out=sheet.png --split=train --count=64 [--noun=mug]

Each tile is the view of frame 0 at the object's own elevation.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw

from im3d_jax.data import toybox
from splat import orbit_cameras


_OUT = flags.DEFINE_string("out", "toybox.png", "Image file to write.")
_SPLIT = flags.DEFINE_enum("split", "train", ["train", "test"], "Split to draw from.")
_COUNT = flags.DEFINE_integer("count", 64, "Number of objects.", lower_bound=1)
_START = flags.DEFINE_integer("start", 0, "First index.", lower_bound=0)
_NOUN = flags.DEFINE_string("noun", None, "Only objects of this noun.")
_FRONTS = flags.DEFINE_bool("fronts", False, "One object of every noun, front and three-quarter back, instead.")
_VIEWS = flags.DEFINE_integer("views", 1, "Views an object, evenly spaced in azimuth.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 128, "Side of a tile in pixels.", lower_bound=8)


def draw(objects: Sequence[toybox.ToyObject], *, views: int, size: int) -> np.ndarray:
    """Draws objects on white, each at its own elevation.

    Args:
        objects: n objects.
        views: views an object, evenly spaced in azimuth from frame 0.
        size: side in pixels.

    Returns:
        [n,views,size,size,3] uint8.
    """

    @jax.jit
    def one(toy: toybox.ToyObject) -> jax.Array:
        rgba = toybox.render_object(toy, orbit_cameras(toy.elevation, views=views, width=size, height=size))
        alpha = rgba[..., 3:]
        return rgba[..., :3] * alpha + 1.0 - alpha

    frames = np.stack([np.asarray(one(toy)) for toy in objects])
    return np.round(255.0 * frames).astype(np.uint8)


def contact_sheet(frames: np.ndarray, captions: Sequence[str], columns: int) -> Image.Image:
    """Tiles objects ([n,views,H,W,3] uint8), the views of one side by side, with the caption below."""
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


def _choose() -> tuple[list[str], list[toybox.ToyObject], int]:
    if _FRONTS.value:
        colours = tuple(toybox.COLOURS)
        items = [
            toybox.describe(noun=noun, colour=colours[i % 9], yaw=yaw, size="large")
            for i, noun in enumerate(toybox.NOUNS)
            for yaw in (0.0, math.radians(-140.0))
        ]
        return [c for c, _ in items], [o for _, o in items], 12
    box = toybox.Toybox(_SPLIT.value)
    chosen: list[int] = []
    for index in range(_START.value, len(box)):
        if _NOUN.value is None or box.scene(index).main.noun == _NOUN.value:
            chosen.append(index)
        if len(chosen) == _COUNT.value:
            break
    items = [box.item(index) for index in chosen]
    return [c for c, _ in items], [o for _, o in items], max(1, 8 // _VIEWS.value)


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    if _NOUN.value is not None and _NOUN.value not in toybox.NOUNS:
        raise app.UsageError(f"--noun={_NOUN.value} is unknown; expected one of {', '.join(toybox.NOUNS)}")
    captions, objects, columns = _choose()
    frames = draw(objects, views=_VIEWS.value, size=_SIZE.value)
    contact_sheet(frames, captions, columns).save(Path(_OUT.value))


if __name__ == "__main__":
    app.run(main)
