"""Cases of files with random damage: whatever comes of it is finite, or one line."""

from __future__ import annotations

import functools
import io
import json
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from im3d_jax.data.captures import load_capture
from im3d_jax.data.pictures import read_mask
from im3d_jax.errors import ImageError, InputError
from im3d_jax.images.files import read_image
from tests.data.posed import frames_of, write_json, write_picture
from tests.robustness.case import Case


TRIES = 25  # of a case
WORDS = (
    b"0", b"-1", b"1e400", b"1e308", b"NaN", b"null", b"true", b'""', b"[]", b"{}", b"9" * 30, b'"a"', b"[[1]]",
    b'"is_fisheye"', b'"camera_model"', b'"OPENCV_FISHEYE"', b'"w"', b'"mask_path"', b'"ply_file_path"', b'"k4"',
    b'"test_filenames"', b'"transform_matrix"', b'"fl_y"', b'"camera_angle_y"', b"-0.0", b"1e-300", b"3",
)  # fmt: skip


def _camera_file(rng: np.random.Generator, text: bytes) -> bytes:
    """One to three words of a JSON text replaced, or some of it taken out."""
    for _ in range(rng.integers(1, 4)):
        spans = [match.span() for match in re.finditer(rb'"[^"]*"|-?[\w.+-]+', text)]
        start, end = spans[rng.integers(len(spans))]
        text = text[:start] + WORDS[rng.integers(len(WORDS))] + text[end:]
    if rng.random() < 0.1:
        text = text[: rng.integers(len(text))]
    return text


def _cameras(seed: int) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        rng = np.random.default_rng(seed)
        names = ["a.png", "b.png", "c.png"]
        for place, name in enumerate(names):
            write_picture(folder / name, grey=20 * place)
        (folder / "masks").mkdir()
        fields = {"camera_angle_x": 0.7, "w": 24, "h": 16, "k1": 0.01, "cx": 12.0, "cy": 8.0, "aabb_scale": 16}
        whole = json.dumps(fields | {"frames": frames_of(names)}).encode()
        for _ in range(TRIES):
            text = _camera_file(rng, whole)
            (folder / "transforms.json").write_bytes(text)
            try:
                capture = load_capture(folder)
            except InputError as error:
                assert "\n" not in str(error) and str(folder) in str(error), f"{text!r}: {error}"
                continue
            except Exception as error:
                raise AssertionError(f"{text!r}: {type(error).__name__}: {error}") from error
            assert capture.images.shape[1:] == (16, 24, 4), text
            for array in (capture.cameras.world_to_camera, capture.cameras.intrinsics, capture.images):
                assert np.isfinite(np.asarray(array)).all(), text

    return act


@functools.cache
def _whole() -> list[bytes]:
    rng, files = np.random.default_rng(0), []
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode, kinds in {
        "RGB": ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM"), "RGBA": ("PNG", "WEBP", "TIFF"),
        "L": ("PNG", "TIFF", "GIF"),
        "P": ("PNG", "GIF", "TIFF"), "1": ("PNG", "TIFF"), "I;16": ("PNG", "TIFF"), "CMYK": ("JPEG", "TIFF"),
    }.items():  # fmt: skip
        pixels = rng.integers(0, 256, (16, 24, 4), np.uint8)
        picture = Image.fromarray(pixels).convert("RGB" if mode in ("CMYK", "I;16") else mode)
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
        for kind in kinds:
            options = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
            options |= {"compression": "tiff_lzw"} if kind == "TIFF" and mode == "RGBA" else {}
            buffer = io.BytesIO()
            picture.save(buffer, kind, **options)
            files.append(buffer.getvalue())
    return files


def _damaged(rng: np.random.Generator) -> bytes:
    files = _whole()
    data = np.frombuffer(files[rng.integers(len(files))], np.uint8).copy()
    kind = rng.integers(4)
    # Headers are short and decide most.
    most = min(len(data), 80) if rng.random() < 0.6 else len(data)
    if kind == 0:
        data[rng.integers(0, most, rng.integers(1, 6))] ^= np.uint8(1 << rng.integers(8))
    elif kind == 1:
        data[rng.integers(0, most, rng.integers(1, 6))] = rng.integers(256)
    elif kind == 2:
        data = data[: rng.integers(len(data))]
    else:
        start = rng.integers(most)
        data = np.delete(data, slice(start, start + rng.integers(1, 9)))
    return data.tobytes()


def _pictures(seed: int) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        rng = np.random.default_rng(seed)
        write_json(folder, {"camera_angle_x": 0.7, "frames": frames_of(["a.img"])})
        readers = {
            "capture": lambda: load_capture(folder).images,
            "image": lambda: read_image(folder / "a.img"),
            "mask": lambda: read_mask(folder / "a.img", (24, 16)),
        }
        for number in range(TRIES):
            (folder / "a.img").write_bytes(_damaged(rng))
            for name, read in readers.items():
                with warnings.catch_warnings(record=True) as shown:
                    warnings.simplefilter("always", UserWarning)
                    try:
                        found = read()
                    except (ImageError, InputError) as error:
                        assert "\n" not in str(error) and "a.img" in str(error), error
                    except Exception as error:
                        raise AssertionError(f"{name} {number}: {type(error).__name__}: {error}") from error
                    else:
                        assert np.isfinite(found).all() and 0.0 <= found.min() <= found.max() <= 1.0
                assert not shown, f"{name} {number}: a warning: {shown[0].message}"

    return act


def cases() -> Iterator[Case]:
    """All of this file."""
    for seed in range(40):
        yield Case(1, f"{TRIES} damaged camera files, seed {seed}", _cameras(seed))
        yield Case(4, f"{TRIES} damaged pictures, seed {seed}", _pictures(seed))
