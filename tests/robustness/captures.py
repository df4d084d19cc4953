"""Cases of captures as people have them: names, kinds of pictures, masks, sizes, EXIF, places far away, COLMAP."""

from __future__ import annotations

import importlib.util
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from im3d_jax.data.captures import load_capture
from tests.data.posed import frames_of, pose, write_json, write_picture
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


def _masked(place: str, mask: Image.Image, inside: bool) -> Callable[[pathlib.Path], None]:
    """The mask leaves out the right half of the picture."""

    def act(folder: pathlib.Path) -> None:
        write_picture(folder / "images/a.jpg", WIDTH, HEIGHT, 200)
        write_picture(folder / "images/b.jpg", WIDTH, HEIGHT, 200)
        frames = frames_of(["images/a.jpg", "images/b.jpg"])
        if place.startswith("mask_path:"):
            frames[0]["mask_path"] = place.removeprefix("mask_path:")
        file = folder / place.removeprefix("mask_path:")
        file.parent.mkdir(parents=True, exist_ok=True)
        mask.save(file, "PNG")
        capture = load_capture(write_json(folder, {"camera_angle_x": 0.7, "frames": frames}))
        assert capture.valid is not None and capture.valid[1].all()
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[:, : WIDTH // 2] = True
        np.testing.assert_array_equal(capture.valid[0], expected if inside else ~expected)
        assert not capture.images[0][~capture.valid[0]].any() and any("masks of 1" in line for line in capture.remarks)

    return act


def half(mode: str, value: Any, other: Any = 0) -> Image.Image:
    made = Image.new(mode, (WIDTH, HEIGHT), other)
    made.paste(value, (0, 0, WIDTH // 2, HEIGHT))
    return made


def masks() -> Iterator[Case]:
    for place in ("mask_path:m.png", "mask_path:masks/m", "masks/a.png", "masks/a.jpg.png", "masks/images/a.png"):
        yield Case(2, f"mask at {place}", _masked(place, half("L", 255), True))
    yield Case(2, "dynamic mask", _masked("images/dynamic_mask_a.png", half("L", 255), False))
    palette = half("P", 1)
    palette.putpalette([0, 0, 0, 128, 0, 0])
    for name, mask in (
        ("ones", half("L", 1)),
        ("bits", half("1", 1)),
        ("colours", half("RGB", (0, 0, 9))),
        ("alpha", half("RGBA", (0, 0, 0, 255), (255, 255, 255, 0))),
        ("grey and alpha", half("LA", (255, 255), (0, 255))),
        ("a palette", palette),
        ("16 bits", Image.fromarray(np.repeat([[300] * 12 + [0] * 12], HEIGHT, 0).astype(np.uint16))),
    ):
        yield Case(2, f"mask of {name}", _masked("masks/a.png", mask, True))
    for name, mask in (("larger", Image.new("L", (25, 16), 255)), ("turned", Image.new("L", (16, 24), 255))):
        yield Case(
            2, f"mask that is {name}", _masked("masks/a.png", mask, True), "mask .*a.png: .*its picture has 24x16"
        )

    def missing(folder: pathlib.Path) -> None:
        write_picture(folder / "a.png", WIDTH, HEIGHT)
        frames = frames_of(["a.png"], mask_path="none.png")
        load_capture(write_json(folder, {"camera_angle_x": 0.7, "frames": frames}))

    yield Case(2, "mask_path that is missing", missing, "missing mask 'none.png'")


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


def _turned(kind: str, orientation: int, mode: str = "RGB") -> Callable[[pathlib.Path], None]:
    """The picture's left half is bright in its raw pixels, whatever EXIF says."""

    def act(folder: pathlib.Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        half("RGB", (200, 200, 200)).convert(mode).save(folder / "a.img", kind, exif=exif)
        capture = load_capture(capture_of(folder, ["a.img"]))
        assert capture.images.shape == (1, HEIGHT, WIDTH, 4)
        np.testing.assert_allclose(capture.images[0, :, :8, 0], 200 / 255, atol=0.05)
        np.testing.assert_allclose(capture.images[0, :, 16:, 0], 0.0, atol=0.05)

    return act


def _far(at: tuple[float, float, float]) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        names = [f"{place}.png" for place in range(4)]
        for name in names:
            write_picture(folder / name)
        (folder / "near").mkdir()
        write_json(folder, {"camera_angle_x": 0.7, "frames": frames_of(names, at=at)})
        capture = load_capture(folder)
        expected = np.array([pose(0.5 * place) for place in range(4)])[:, :3, 3] + np.array(at)
        found = np.asarray(capture.cameras.positions, np.float64) + np.array(capture.origin)
        np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)

    return act


def conventions() -> Iterator[Case]:
    for kind, orientation in itertools.product(("JPEG", "PNG", "TIFF", "WEBP"), (1, 3, 6, 8, 99)):
        yield Case(3, f"EXIF orientation {orientation} of a {kind}", _turned(kind, orientation))
        if kind in ("PNG", "TIFF"):
            yield Case(3, f"EXIF orientation {orientation} of a grey {kind}", _turned(kind, orientation, "L"))
    for at in (
        (0, 0, 0),
        (900.0, -700, 30),
        (3e3, 0, 0),
        (448_262.3, 5_411_932.6, 210.4),
        (4.2e6, 1.7e5, 4.78e6),
        (-1e7, 0, 9),
    ):
        yield Case(3, f"cameras about {at}", _far(at))


def _colmap(change: Callable[[pathlib.Path, Any], object], check: Callable[[Any, Any], object]) -> Callable:
    def act(folder: pathlib.Path) -> None:
        from tests.data.test_colmap import synthesize

        made = synthesize(folder)
        change(folder, made)
        check(load_capture(folder), made)

    return act


def _four(capture: Any, made: Any) -> None:
    assert capture.names == tuple(sorted(image.name for image in made.images.values()))
    np.testing.assert_allclose(capture.images[:, 0, 0, 0] * 255, [0, 20, 40, 60], atol=1e-3)
    assert len(capture.points) == len(made.points3D)


def _as_text(folder: pathlib.Path, made: Any) -> None:
    for file in (folder / "sparse/0").iterdir():
        file.unlink()
    made.write_text(str(folder / "sparse/0"))


def _moved(place: str) -> Callable[[pathlib.Path, Any], None]:
    def change(folder: pathlib.Path, made: Any) -> None:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for file in list((folder / "sparse/0").iterdir()):
            file.rename(folder / place / file.name)

    return change


def _cut(name: str, share: float) -> Callable[[pathlib.Path, Any], None]:
    def change(folder: pathlib.Path, made: Any) -> None:
        file = folder / "sparse/0" / name
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    return change


def _upper(folder: pathlib.Path, made: Any) -> None:
    for file in list((folder / "images").iterdir()):
        file.rename(file.with_suffix(".PNG"))


def colmap() -> Iterator[Case]:
    if importlib.util.find_spec("pycolmap") is None:
        return
    yield Case(2, "COLMAP, binary", _colmap(lambda folder, made: None, _four))
    yield Case(2, "COLMAP, text", _colmap(_as_text, _four))
    yield Case(2, "COLMAP, pictures in upper case", _colmap(_upper, _four))
    for place in ("sparse", ".", "colmap/sparse/0"):
        yield Case(2, f"COLMAP in {place}", _colmap(_moved(place), _four))
    for name, share in itertools.product(("cameras.bin", "images.bin", "points3D.bin"), (0.0, 0.3, 0.9)):
        yield Case(6, f"COLMAP, {name} cut at {share}", _colmap(_cut(name, share), _four), name)


def cases() -> Iterator[Case]:
    """All of this file."""
    for part in (names, kinds, unusable, masks, sizes, absent, encodings, conventions, colmap):
        yield from part()
