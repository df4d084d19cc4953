"""SOG version 2: a zip archive of meta.json and lossless WebP pictures, one pixel a gaussian.

    means_l, means_u   low and high byte of 16 bits between `mins` and `maxs` of sign(x) ln(1 + |x|)
    quats              three smallest components of wxyz, 255 (0.5 + q / sqrt(2)); alpha 252 + index of the largest
    scales             indices into a codebook of log scales
    sh0                indices into a codebook of degree-0 coefficients; alpha 255 opacity
    shN_labels         two bytes: which vector of a palette holds the higher coefficients
    shN_centroids      the palette, 64 vectors a row, indices into a codebook

As in PLY files the frame is undeclared and does not change. Reference: developer.playcanvas.com, "The SOG Format".
"""

import io
import json
import math
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image

from splat.io.codebooks import nearest, number_codebook, palette
from splat.io.files import Malformed, Rows, from_smallest_three, logit, sigmoid, smallest_three, to_bytes
from splat.morton import z_order


_PALETTE_ROW = 64
_MOST_PALETTE = 1 << 16
_LARGEST_TAG = 252
_MOST_META, _MOST_PIXELS = 1 << 20, 1 << 27
_TIME = (1980, 1, 1, 0, 0, 0)


def encode_sog(gaussians: Rows) -> bytes:
    """Encodes a whole archive.

    Args:
        gaussians: At least one, finite numbers, SH degree 0 to 3.

    Returns:
        The file's bytes. Gaussians are stored along the z-order curve.
    """
    rows = gaussians.take(z_order(gaussians.means))
    count = len(rows)
    width = 4 * max(1, math.ceil(math.sqrt(count) / 4))
    files: dict[str, bytes] = {}

    def store(name: str, pixels: np.ndarray) -> str:
        """Pixels [N, 1..4]; missing channels are 0, a missing alpha 255."""
        height = 4 * math.ceil(len(pixels) / (width * 4))
        image = np.zeros((height * width, 4), np.uint8)
        image[: len(pixels), 3] = 255
        image[: len(pixels), : pixels.shape[1]] = pixels
        files[name] = _webp(image.reshape(height, width, 4))
        return name

    logs = np.sign(rows.means) * np.log1p(np.abs(rows.means.astype(np.float64)))
    low, high = logs.min(axis=0), logs.max(axis=0)
    steps = np.rint(65535 * (logs - low[None]) / np.where(high > low, high - low, 1.0)[None]).astype(np.uint16)
    scale_book = number_codebook(rows.log_scales)
    color_book = number_codebook(rows.sh[:, 0])
    opacity = to_bytes(255.0 * sigmoid(rows.opacity_logits))
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "splat"},
        "count": count,
        "means": {
            "mins": low.tolist(),
            "maxs": high.tolist(),
            "files": [store("means_l.webp", steps & 255), store("means_u.webp", steps >> 8)],
        },
        "scales": {
            "codebook": scale_book.tolist(),
            "files": [store("scales.webp", nearest(rows.log_scales, scale_book))],
        },
        "quats": {"files": [store("quats.webp", _pack_quats(rows.quats))]},
        "sh0": {
            "codebook": color_book.tolist(),
            "files": [
                store("sh0.webp", np.concatenate([nearest(rows.sh[:, 0], color_book), opacity[:, None]], axis=1))
            ],
        },
    }
    if rows.sh_degree > 0:
        functions = rows.sh.shape[1] - 1
        vectors, labels = palette(
            rows.sh[:, 1:].astype(np.float32).reshape(count, 3 * functions), min(_MOST_PALETTE, _palette_size(count))
        )
        book = number_codebook(vectors)
        height = math.ceil(len(vectors) / _PALETTE_ROW)
        image = np.full((height * _PALETTE_ROW, functions, 4), 255, np.uint8)
        image[: len(vectors), :, :3] = nearest(vectors, book).reshape(len(vectors), functions, 3)
        files["shN_centroids.webp"] = _webp(image.reshape(height, _PALETTE_ROW * functions, 4))
        meta["shN"] = {
            "count": len(vectors),
            "bands": rows.sh_degree,
            "codebook": book.tolist(),
            "files": ["shN_centroids.webp", store("shN_labels.webp", np.stack([labels & 255, labels >> 8], axis=1))],
        }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**files, "meta.json": json.dumps(meta, separators=(",", ":")).encode()}.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), content)
    return buffer.getvalue()


def decode_sog(data: bytes) -> Rows:
    """Decodes a whole archive.

    Args:
        data: Its bytes.

    Returns:
        Its gaussians in the order of the file.

    Raises:
        Malformed: The archive is damaged or of another version; nothing is decoded that its pictures do not hold.
    """
    try:
        return _decode(data)
    except Malformed:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as problem:
        raise Malformed(f"has a meta.json that lacks a field or has a wrong one ({str(problem)[:60]})") from None
    except (OverflowError, Image.DecompressionBombError):
        raise Malformed("holds a picture or a number that is too large") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as problem:
        raise Malformed(f"is no intact archive of pictures ({' '.join(str(problem).split())[:60]})") from None


def _decode(data: bytes) -> Rows:
    archive = zipfile.ZipFile(io.BytesIO(data))
    meta = json.loads(_member(archive, "meta.json", _MOST_META))
    if meta.get("version") != 2:
        raise Malformed(f"has SOG version {str(meta.get('version', 1))[:20]}; version 2 is read")
    count = meta["count"]
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= _MOST_PIXELS:
        raise Malformed(f"claims {str(count)[:20]} gaussians")

    def pixels(part: dict, index: int = 0) -> np.ndarray:
        image = _picture(archive, part["files"][index])
        flat = image.reshape(-1, 4)
        if len(flat) < count:
            raise Malformed(f"truncated: a picture of {len(flat)} pixels for {count} gaussians")
        return flat[:count]

    means = meta["means"]
    low, high = _numbers(means["mins"], 3), _numbers(means["maxs"], 3)
    steps = pixels(means)[:, :3].astype(np.uint16) | pixels(means, 1)[:, :3].astype(np.uint16) << 8
    logs = low[None] + (high - low)[None] * (steps / 65535.0)
    if np.abs(logs).max() > 80:
        raise Malformed("has positions beyond float32")
    shades = pixels(meta["sh0"])
    sh = _numbers(meta["sh0"]["codebook"], 256)[shades[:, :3]][:, None].astype(np.float32)
    if "shN" in meta:
        sh = np.concatenate([sh, _rest(archive, meta["shN"], pixels(meta["shN"], 1))], axis=1)
    return Rows(
        means=np.sign(logs) * np.expm1(np.abs(logs)),
        quats=_unpack_quats(pixels(meta["quats"])),
        log_scales=_numbers(meta["scales"]["codebook"], 256)[pixels(meta["scales"])[:, :3]],
        opacity_logits=logit(shades[:, 3] / 255.0, 0.25 / 255.0),
        sh=sh,
    )


def _rest(archive: zipfile.ZipFile, part: dict, labels: np.ndarray) -> np.ndarray:
    """Coefficients [N, K - 1, 3] of a palette."""
    functions = {1: 3, 2: 8, 3: 15}[part["bands"]]
    image = _picture(archive, part["files"][0])
    if image.shape[1] != _PALETTE_ROW * functions:
        raise Malformed(f"has a palette {image.shape[1]} pixels wide; expected {_PALETTE_ROW * functions}")
    vectors = image.reshape(-1, functions, 4)[..., :3]
    indices = labels[:, 0].astype(np.int64) | labels[:, 1].astype(np.int64) << 8
    if indices.max() >= min(len(vectors), int(part["count"])):
        raise Malformed(f"refers to vector {indices.max()} of a palette of {part['count']}")
    return _numbers(part["codebook"], 256).astype(np.float32)[vectors[indices]]


def _palette_size(count: int) -> int:
    """A power of two from 1,024: an eighth of the gaussians or less, so that the palette is the smaller part."""
    return 1024 * 2 ** max(0, int(math.log2(max(count / 8, 1024) / 1024)))


def _numbers(values: Any, count: int) -> np.ndarray:
    """A list of finite numbers as float64."""
    sound = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    numbers = np.array(values, np.float64) if sound else np.zeros(0)
    if numbers.shape != (count,) or not (np.abs(numbers) < 1e30).all():
        raise Malformed(f"holds a list that is not {count} finite numbers")
    return numbers


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > most:
        raise Malformed(f"holds {name[:40]} of {info.file_size} bytes; at most {most} are read")
    return archive.read(info)


def _picture(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """A picture [H, W, 4] of the archive."""
    if not isinstance(name, str):
        raise TypeError("files")
    with Image.open(io.BytesIO(_member(archive, name, _MOST_PIXELS)), formats=["WEBP"]) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise Malformed(f"holds a picture of {image.width}x{image.height} pixels")
        return np.asarray(image.convert("RGBA"))


def _webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # `exact`: colours below an alpha of 0 are numbers too.
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, exact=True, quality=100, method=4)
    return buffer.getvalue()


def _pack_quats(quats: np.ndarray) -> np.ndarray:
    largest, others = smallest_three(quats)
    return np.concatenate([to_bytes(255.0 * (0.5 + others / math.sqrt(2.0))), _tags(largest)], axis=1)


def _tags(largest: np.ndarray) -> np.ndarray:
    return (_LARGEST_TAG + largest).astype(np.uint8)[:, None]


def _unpack_quats(pixels: np.ndarray) -> np.ndarray:
    largest = pixels[:, 3].astype(np.int64) - _LARGEST_TAG
    if (largest < 0).any():
        raise Malformed("holds a rotation without its largest component")
    return from_smallest_three(largest, (pixels[:, :3] / 255.0 - 0.5) * math.sqrt(2.0))
