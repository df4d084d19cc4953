"""Cases of what lies beside the pictures of a capture: masks, EXIF, places far away, COLMAP models."""

from __future__ import annotations

import importlib.util
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from im3d_jax.data.captures import load_capture
from tests.data.posed import frames_of, pose, write_json, write_picture
from tests.robustness.captures import HEIGHT, WIDTH, capture_of
from tests.robustness.case import Case


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
    for part in (masks, conventions, colmap):
        yield from part()
