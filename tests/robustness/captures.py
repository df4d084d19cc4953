"""Cases of captures as people have them: names, kinds of pictures, sizes, encodings."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from im3d_jax.data.captures import load_capture
from tests.data.posed import frames_of, write_json, write_picture
from tests.robustness.case import Case


WIDTH, HEIGHT = 24, 16
COLOUR = (200, 100, 50)


def capture_of(folder: pathlib.Path, names: list[str], **fields: Any) -> pathlib.Path:
    return write_json(folder, {"camera_angle_x": 0.7, "frames": frames_of(names)} | fields)


def _picture(mode: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> tuple[Image.Image, tuple[float, ...]]:
    """A picture of one colour in a mode of Pillow, and the colour with alpha that it means."""
    red, green, blue = (value / 255 for value in COLOUR)
    rgb = Image.new("RGB", size, COLOUR)
    if mode == "RGBA":
        return Image.new("RGBA", size, (*COLOUR, 128)), (red, green, blue, 128 / 255)
    if mode == "LA":
        return Image.new("LA", size, (100, 128)), (100 / 255,) * 3 + (128 / 255,)
    if mode == "I;16":
        return Image.fromarray(np.full(size[::-1], 30000, np.uint16)), (30000 / 65535,) * 3 + (1.0,)
    if mode == "1":
        return Image.new("1", size, 1), (1.0,) * 4
    if mode == "P":
        return rgb.convert("P", palette=Image.Palette.ADAPTIVE), (red, green, blue, 1.0)
    if mode == "L":
        return Image.new("L", size, 100), (100 / 255,) * 3 + (1.0,)
    if mode == "CMYK":
        return Image.new("CMYK", size, (55, 155, 205, 0)), (red, green, blue, 1.0)
    return rgb, (red, green, blue, 1.0)


def _named(name: str, file: str, mode: str = "RGB", downscale: int = 1, **options: Any) -> Callable:
    """One picture of a file name under the name that the camera file has."""

    def act(folder: pathlib.Path) -> None:
        picture, expected = _picture(mode)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / file, **options)
        write_picture(folder / "other.png", grey=7)
        capture = load_capture(capture_of(folder, [name, "other.png"]), downscale)
        assert capture.images.shape == (2, HEIGHT // downscale, WIDTH // downscale, 4)
        atol = 0.02 if options.get("format") in ("JPEG", "WEBP") or file.lower().endswith(("jpg", "webp")) else 1e-3
        np.testing.assert_allclose(capture.images[0], np.broadcast_to(expected, capture.images[0].shape), atol=atol)

    return act


def names() -> Iterator[Case]:
    for name, file in (
        ("images/a", "images/a.png"),
        ("./images/a", "images/a.png"),
        ("images/a.jpg", "images/a.JPG"),
        ("images/a.JPG", "images/a.jpg"),
        ("images/a", "images/a.JPEG"),
        ("images\\a.png", "images/a.png"),
        ("images/my photo 1.png", "images/my photo 1.png"),
        ("images/é ü.png", "images/é ü.png"),
        ("../{here}/images/a.png", "images/a.png"),
        ("images//a.png", "images/a.png"),
        ("images/a.b.c", "images/a.b.c.png"),
        ("images/%20.png", "images/%20.png"),
        ("images/a.TIFF", "images/a.tiff"),
        ("images/a.webp", "images/a.WebP"),
        (" images/a.png", " images/a.png"),
        ("images/日本.png", "images/日本.png"),
        ("images/a\nb.png", "images/a\nb.png"),
        ("-x.png", "-x.png"),
        ("~.png", "~.png"),
        ("$HOME.png", "$HOME.png"),
        ("images/*.png", "images/*.png"),
    ):

        def act(folder: pathlib.Path, name: str = name, file: str = file) -> None:
            _named(name.replace("{here}", folder.name), file)(folder)

        yield Case(2, f"picture {file!r} named {name!r}", act)


def kinds() -> Iterator[Case]:
    formats = {
        "PNG": ("RGB", "RGBA", "LA", "L", "P", "1", "I;16"),
        "TIFF": ("RGB", "RGBA", "LA", "L", "P", "1", "I;16", "CMYK"),
        "JPEG": ("RGB", "L", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "BMP": ("RGB", "L", "P", "1"),
        "GIF": ("L", "P"),
        "PPM": ("RGB", "L", "1", "I;16"),
    }
    for kind, modes in formats.items():
        for mode, downscale in itertools.product(modes, (1, 2)):
            name = f"{kind} of {mode}" + (f", downscale {downscale}" if downscale > 1 else "")
            yield Case(2, name, _named("images/a.img", "images/a.img", mode, downscale, format=kind))


def _unusable(content: bytes | Callable[[pathlib.Path], object]) -> Callable[[pathlib.Path], object]:
    def act(folder: pathlib.Path) -> object:
        file = folder / "a.png"
        content(file) if callable(content) else file.write_bytes(content)
        write_picture(folder / "other.png", grey=7)
        return load_capture(capture_of(folder, ["a.png", "other.png"]))

    return act


def _png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG file that declares a size."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def _lab(file: pathlib.Path) -> None:
    Image.new("LAB", (WIDTH, HEIGHT), (100, 0, 0)).save(file, "TIFF")


def _thirty_two(kind: str, value: float) -> Callable[[pathlib.Path], object]:
    pixels = np.full((HEIGHT, WIDTH), value, kind)
    return lambda file: Image.fromarray(pixels).save(file, "TIFF")


def unusable() -> Iterator[Case]:
    whole = _png(WIDTH, HEIGHT, (b"\0" + bytes(3 * WIDTH)) * HEIGHT)
    for name, content in (
        ("empty", b""),
        ("a text", b"no picture"),
        ("cut in its header", whole[:20]),
        ("cut in its pixels", whole[:50]),
        ("without pixels", _png(WIDTH, HEIGHT)),
        ("no width", _png(0, HEIGHT)),
        ("no size", _png(0, 0)),
        ("2 billion pixels wide", _png(2**31 - 1, 1)),
        ("60,000 x 60,000", _png(60_000, 60_000)),
        ("an EPS", lambda file: Image.new("RGB", (WIDTH, HEIGHT)).save(file, "EPS")),
        ("a PDF", lambda file: Image.new("RGB", (WIDTH, HEIGHT)).save(file, "PDF")),
        ("an icon", lambda file: Image.new("RGB", (WIDTH, HEIGHT)).save(file, "ICO")),
        ("a TIFF of 32 bits", _thirty_two("i4", 200)),
        ("a TIFF of large 32 bits", _thirty_two("i4", 2_000_000_000)),
        ("a TIFF of floats", _thirty_two("f4", 0.5)),
        ("a TIFF in Lab", _lab),
        ("a text in a TIFF's clothes", b"II*\0" + b"\xff" * 60),
    ):
        yield Case(8 if "000" in name or "billion" in name else 4, f"picture: {name}", _unusable(content), "a.png")


def _sizes(sizes: list[tuple[int, int]], downscale: int) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        names = [f"{place}.png" for place in range(len(sizes))]
        for name, size in zip(names, sizes, strict=True):
            write_picture(folder / name, *size, grey=200)
        capture = load_capture(capture_of(folder, names), downscale)
        small = [(width // downscale, height // downscale) for width, height in sizes]
        shape = max(height for _, height in small), max(width for width, _ in small)
        assert capture.images.shape[1:3] == shape
        for place, (width, height) in enumerate(small):
            valid = np.zeros(shape, bool)
            valid[:height, :width] = True
            if capture.valid is not None:
                np.testing.assert_array_equal(capture.valid[place], valid)
            np.testing.assert_allclose(capture.images[place][valid][:, 0], 200 / 255, rtol=1e-6)
        focal = [0.5 * width / np.tan(0.35) / downscale for width, _ in sizes]
        np.testing.assert_allclose(capture.cameras.intrinsics[:, 0, 0], focal, rtol=1e-6)
        centres = [[0.5 * width / downscale, 0.5 * height / downscale] for width, height in sizes]
        np.testing.assert_allclose(capture.cameras.intrinsics[:, :2, 2], centres, rtol=1e-6)

    return act


def sizes() -> Iterator[Case]:
    for several, downscale in itertools.product(
        ([(24, 16), (24, 17)], [(24, 16), (16, 24)], [(40, 16), (16, 40), (30, 30)], [(24, 16)] * 3), (1, 2, 3)
    ):
        yield Case(2, f"pictures of {several}, downscale {downscale}", _sizes(several, downscale))
    yield Case(2, "downscale above the size", _sizes([(24, 16), (24, 16)], 17), "too few for downscale=17")


def _absent(count: int, missing: tuple[int, ...]) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        names = [f"images/{place}.png" for place in range(count)]
        for place in set(range(count)) - set(missing):
            write_picture(folder / names[place], grey=10 * place)
        capture = load_capture(capture_of(folder, names))
        left = [place for place in range(count) if place not in missing]
        assert list(capture.names) == [names[place] for place in left]
        np.testing.assert_allclose(capture.images[:, 0, 0, 0] * 255, [10 * place for place in left], atol=1e-3)
        expected = [frames_of(names)[place]["transform_matrix"] for place in left]
        np.testing.assert_allclose(capture.cameras.positions, np.array(expected)[:, :3, 3], atol=1e-5)
        if missing:
            assert f"{len(missing)} of {count} pictures are missing" in capture.remarks[0]

    return act


def absent() -> Iterator[Case]:
    for count, missing in ((3, ()), (3, (0,)), (4, (3,)), (5, (1, 3)), (9, (0, 1, 2, 3, 4, 5, 6))):
        yield Case(2, f"{len(missing)} of {count} pictures missing", _absent(count, missing))
    yield Case(2, "all pictures missing", _absent(3, (0, 1, 2)), "missing image 'images/0.png'.* all 3 views")


def _encoded(encoding: str) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        write_picture(folder / "ä.png", grey=60)
        text = json.dumps({"camera_angle_x": 0.7, "frames": frames_of(["ä.png"])}, ensure_ascii=False)
        (folder / "transforms.json").write_bytes(text.encode(encoding))
        assert abs(load_capture(folder).images[0, 0, 0, 0] - 60 / 255) < 1e-6

    return act


def encodings() -> Iterator[Case]:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"):
        yield Case(2, f"transforms.json in {encoding}", _encoded(encoding))
    yield Case(2, "transforms.json in latin-1", _encoded("latin-1"), "transforms.json: not a readable JSON file")


def cases() -> Iterator[Case]:
    """All of this file."""
    for part in (names, kinds, unusable, sizes, absent, encodings):
        yield from part()
