"""Cases of --image: modes, sizes, alpha at its ends, orientation, files that are no pictures."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from im3d_jax.images.files import read_image
from tests.robustness.captures import _lab, _png, _thirty_two
from tests.robustness.case import Case
from tests.robustness.folders import drawn


SIDE = 60
RED = (200, 30, 30)


def box(
    mode: str = "RGBA", background: Any = (255, 255, 255, 0), front: Any = (*RED, 255), side: int = SIDE
) -> Image.Image:
    """A box of 20 x 40 pixels, off the centre."""
    picture = Image.new(mode, (side, side), background)
    picture.paste(front, (6, 14, 26, 54))
    return picture


def _drawn(folder: pathlib.Path, file: pathlib.Path) -> np.ndarray:
    drawn("views", f"--image={file}", "--elevation_deg=5", f"--out={folder / 'run'}")
    return read_image(folder / "run/input.png")


def shown(
    make: Callable[[pathlib.Path], object], wide: bool = False, colour: Any = RED, name: str = "box.png"
) -> Callable:
    """The object is the box and its colour the given one; `wide` where EXIF turns it."""

    def act(folder: pathlib.Path) -> None:
        make(folder / name)
        picture = _drawn(folder, folder / name)
        rows, columns = (np.nonzero((picture[..., 3] >= 0.5).any(axis))[0] for axis in (1, 0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        longer, shorter = (width, height) if wide else (height, width)
        assert abs(longer - 0.6 * 24) <= 1 and abs(shorter - 0.3 * 24) <= 1.5, (height, width)
        found = picture[picture[..., 3] > 0.99][:, :3].mean(axis=0)
        np.testing.assert_allclose(found, np.array(colour) / 255, atol=0.03)

    return act


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> Callable[[pathlib.Path], object]:
    return lambda file: picture.save(file, kind, **options)


def alphas() -> Iterator[Case]:
    white = (255, 255, 255, 255)
    stray = box(background=white)
    stray.putpixel((0, 0), (255, 255, 255, 254))
    yield Case(4, "alpha of 254 in one pixel", shown(saved(stray)))
    hole = box(background=white)
    hole.putpixel((59, 59), (0, 0, 0, 0))
    yield Case(4, "one transparent pixel", shown(saved(hole)))
    corners = box(background=white)
    for x, y in ((0, 0), (0, 59), (59, 0)):
        corners.putpixel((x, y), (0, 0, 0, 0))
    yield Case(4, "three transparent corners", shown(saved(corners)))
    yield Case(4, "alpha of 254 everywhere", shown(saved(box(background=(255, 255, 255, 254), front=(*RED, 254)))))
    yield Case(4, "alpha of 1 around", shown(saved(box(background=(0, 255, 0, 1)))))
    yield Case(4, "alpha of 254 inside", shown(saved(box(front=(*RED, 254)))))
    yield Case(4, "no alpha", shown(saved(box("RGB", "white", RED))))
    yield Case(4, "transparent throughout", shown(saved(box(front=(*RED, 0)))), "transparent")
    yield Case(
        4, "alpha of 100 throughout", shown(saved(box(background=(9, 9, 9, 100), front=(*RED, 100)))), "transparent"
    )


def kinds() -> Iterator[Case]:
    rgb, grey = box("RGB", "white", RED), box("L", 255, 60)
    for kind in ("PNG", "TIFF", "JPEG", "WEBP"):
        options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
        yield Case(2, f"--image: a {kind}", shown(saved(rgb, kind, **options), name="box.img"))
    yield Case(4, "--image: grey", shown(saved(grey), colour=(60,) * 3))
    yield Case(4, "--image: bits", shown(saved(box("1", 1, 0)), colour=(0,) * 3))
    yield Case(4, "--image: a palette", shown(saved(rgb.convert("P", palette=Image.Palette.ADAPTIVE))))
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    first = palette.getpixel((0, 0))
    yield Case(4, "--image: a palette with a transparent colour", shown(saved(palette, transparency=first)))
    yield Case(
        4,
        "--image: RGB with a transparent colour",
        shown(saved(box("RGB", (0, 255, 0), RED), transparency=(0, 255, 0))),
    )
    yield Case(4, "--image: grey and alpha", shown(saved(box("LA", (255, 0), (60, 255))), colour=(60,) * 3))
    cmyk = box("CMYK", (0, 0, 0, 0), (55, 225, 225, 0))
    for kind in ("TIFF", "JPEG"):
        yield Case(4, f"--image: a {kind} of CMYK", shown(saved(cmyk, kind), name="box.img"))
    deep = np.full((SIDE, SIDE), 65535, np.uint16)
    deep[14:54, 6:26] = 15420
    for kind in ("PNG", "TIFF"):
        yield Case(4, f"--image: a {kind} of 16 bits", shown(saved(Image.fromarray(deep), kind), colour=(60,) * 3))
    exif = Image.Exif()
    for orientation in (1, 2, 3, 4, 5, 6, 7, 8, 0, 200):
        exif[0x0112] = orientation
        turned = saved(rgb, "JPEG", quality=95, exif=exif.tobytes())
        yield Case(3, f"--image: EXIF orientation {orientation}", shown(turned, wide=orientation in (5, 6, 7, 8)))


def refused() -> Iterator[Case]:
    body = (b"\0" + bytes(3 * SIDE)) * SIDE

    def write(content: bytes) -> Callable[[pathlib.Path], object]:
        return lambda file: file.write_bytes(content)

    for name, make, words in (
        ("1 pixel", saved(Image.new("RGB", (1, 1))), "1x1"),
        ("1 x 400 pixels", saved(Image.new("RGB", (1, 400))), "1x400"),
        ("15 x 15 pixels", saved(Image.new("RGBA", (15, 15))), "15x15"),
        ("plain", saved(Image.new("RGB", (60, 60), "red")), "plain background"),
        ("noise", lambda file: Image.effect_noise((60, 60), 90).save(file), "background is not plain"),
        ("a dot", saved(box("RGB", "white", "white")), "plain background"),
        ("empty", write(b""), "not a readable picture"),
        ("a text", write(b"hello"), "not a readable picture"),
        ("cut", write(_png(SIDE, SIDE, body)[:60]), "truncated"),
        ("without pixels", write(_png(SIDE, SIDE)), "truncated"),
        ("a folder", lambda file: file.mkdir(), "a folder"),
        ("a pipe", os.mkfifo, "a pipe"),
        ("missing", lambda file: None, "missing"),
        ("an EPS", saved(box("RGB", "white", RED), "EPS"), "expected PNG, JPEG, WebP or TIFF"),
        ("a GIF", saved(box("P", 1, 0), "GIF"), "expected PNG"),
        ("a PDF", saved(box("RGB", "white", RED), "PDF"), "expected PNG"),
        ("an SVG", write(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "expected PNG"),
        ("a HEIC", write(b"\0\0\0\x18ftypheic" + bytes(40)), "expected PNG"),
        ("32 bits", _thirty_two("i4", 200), "32-bit"),
        ("floats", _thirty_two("f4", 0.5), "floating-point"),
        ("in Lab", _lab, "LAB"),
    ):
        yield Case(4, f"--image: {name}", shown(make), words)
    for name, width, height in (
        ("50 million pixels", 8000, 8000),
        ("4 billion pixels", 65535, 65535),
        ("2 billion wide", 2**31 - 1, 1),
    ):
        yield Case(8, f"--image: {name}", shown(write(_png(width, height))), "50 million pixels")


def cases() -> Iterator[Case]:
    """All of this file."""
    for part in (alphas, kinds, refused):
        yield from part()
