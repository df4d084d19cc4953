"""Compressed PLY (PlayCanvas): chunks of 256 gaussians with their ranges, and 16 bytes a gaussian.

Elements: `chunk` with 18 floats (smallest and largest position, log scale and colour), `vertex` with four uint32, and
with harmonics `sh` with one byte a coefficient, channel by channel:

    packed_position, packed_scale   11, 10 and 11 bits between the chunk's limits
    packed_rotation                 index of the largest of wxyz (2 bits), the others as 10 bits in sqrt(2) (q + 0.5)
    packed_color                    8 bits each: colour between the chunk's limits, and opacity
    f_rest                          256 (c / 8 + 0.5): coefficients in [-4, 4)

As in other PLY files the frame is undeclared and does not change.
"""

import math

import numpy as np
from jaxtyping import Float, UInt32

from splat.harmonics import SH_C0
from splat.io.files import Malformed, Rows, base_coefficients, from_smallest_three, logit, sigmoid, smallest_three
from splat.morton import z_order


_CHUNK = 256
_SCALE_LIMIT = 20.0
_LARGEST = 1e30
_KINDS = ("xyz", ("scale_x", "scale_y", "scale_z"), "rgb")
_CHUNK_FIELDS = [f"{end}_{name}" for kind in _KINDS for end in ("min", "max") for name in kind]
_VERTEX_FIELDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


def encode_compressed_ply(gaussians: Rows) -> bytes:
    """Encodes a whole file.

    Args:
        gaussians: At least one, finite numbers, SH degree 0 to 3.

    Returns:
        The file's bytes. Gaussians are stored along the z-order curve.
    """
    rows = gaussians.take(z_order(gaussians.means))
    count = len(rows)
    chunks = -(-count // _CHUNK)
    scales = np.clip(rows.log_scales.astype(np.float64), -_SCALE_LIMIT, _SCALE_LIMIT)
    colors = rows.sh[:, 0].astype(np.float64) * SH_C0 + 0.5
    positions, position_limits = _within_chunks(rows.means.astype(np.float64), chunks)
    scales, scale_limits = _within_chunks(scales, chunks)
    colors, color_limits = _within_chunks(colors, chunks)
    opacity = sigmoid(rows.opacity_logits)[:, None]
    table = np.stack(
        [
            _pack(positions, (11, 10, 11)),
            _pack_rotation(rows.quats),
            _pack(scales, (11, 10, 11)),
            _pack(np.concatenate([colors, opacity], axis=1), (8, 8, 8, 8)),
        ],
        axis=1,
    )
    rest = rows.sh[:, 1:].transpose(0, 2, 1).reshape(count, 3 * (rows.sh.shape[1] - 1)).astype(np.float32)
    header = ["ply", "format binary_little_endian 1.0", f"element chunk {chunks}"]
    header += [f"property float {name}" for name in _CHUNK_FIELDS]
    header += [f"element vertex {count}", *(f"property uint {name}" for name in _VERTEX_FIELDS)]
    if rest.shape[1]:
        header += [f"element sh {count}", *(f"property uchar f_rest_{index}" for index in range(rest.shape[1]))]
    limits = np.concatenate([position_limits, scale_limits, color_limits], axis=1).astype("<f4")
    coefficients = np.clip(np.floor((rest / 8.0 + 0.5) * 256.0), 0, 255).astype(np.uint8)
    text = "\n".join([*header, "end_header", ""]).encode()
    return b"".join([text, limits.tobytes(), table.astype("<u4").tobytes(), coefficients.tobytes()])


def decode_compressed_ply(elements: dict[str, dict[str, np.ndarray]]) -> Rows:
    """Decodes the elements of a file.

    Args:
        elements: {element: {property: [rows]}}.

    Returns:
        Its gaussians in the order of the file.

    Raises:
        Malformed: Elements or properties are missing or do not fit each other.
    """
    chunk, vertex = elements.get("chunk", {}), elements["vertex"]
    missing = [name for name in _CHUNK_FIELDS[: 18 if "min_r" in chunk else 12] if name not in chunk]
    missing += [name for name in _VERTEX_FIELDS if name not in vertex]
    if missing:
        raise Malformed(f"is a compressed PLY without {missing[0]}")
    packed = [vertex[name] for name in _VERTEX_FIELDS]
    if any(values.dtype.kind != "u" or values.dtype.itemsize != 4 for values in packed):
        raise Malformed("is a compressed PLY whose packed properties are not uint")
    count = len(packed[0])
    if len(chunk["min_x"]) != -(-count // _CHUNK):
        raise Malformed(f"has {len(chunk['min_x'])} chunks for {count} gaussians; expected one for {_CHUNK} of them")
    place = np.arange(count) // _CHUNK

    def between(values: np.ndarray, first: int) -> np.ndarray:
        names = [_CHUNK_FIELDS[start : start + 3] for start in (first, first + 3)]
        with np.errstate(invalid="ignore"):  # signalling NaNs of broken files
            low, high = (np.stack([chunk[name] for name in end], axis=1).astype(np.float64)[place] for end in names)
        if not (np.abs(low) < _LARGEST).all() or not (np.abs(high) < _LARGEST).all():
            raise Malformed("is a compressed PLY with a limit that is not finite or too large")
        return low + (high - low) * values

    shades = _unpack(packed[3], (8, 8, 8, 8))
    colors = between(shades[:, :3], 12) if "min_r" in chunk else shades[:, :3]
    sh = base_coefficients(colors).astype(np.float32)
    if "sh" in elements:
        sh = np.concatenate([sh, _rest(elements["sh"], count)], axis=1)
    return Rows(
        means=between(_unpack(packed[0], (11, 10, 11)), 0),
        quats=_unpack_rotation(packed[1]),
        log_scales=between(_unpack(packed[2], (11, 10, 11)), 6),
        opacity_logits=logit(shades[:, 3], 0.25 / 255.0),
        sh=sh,
    )


def _rest(columns: dict[str, np.ndarray], count: int) -> Float[np.ndarray, "N K 3"]:
    names = [f"f_rest_{index}" for index in range(len(columns))]
    if len(columns) not in (9, 24, 45) or any(name not in columns for name in names):
        raise Malformed(f"is a compressed PLY with {len(columns)} coefficients; expected 9, 24 or 45")
    if len(columns[names[0]]) != count or any(columns[name].dtype != np.uint8 for name in names):
        raise Malformed("is a compressed PLY whose coefficients are not one row of bytes for each gaussian")
    values = np.stack([columns[name] for name in names], axis=1)
    # The outermost bytes are the ends of the range, the others the middles of their steps.
    steps = np.where(values == 0, 0.0, np.where(values == 255, 256.0, values + 0.5)).astype(np.float32)
    return (8.0 * (steps / 256.0 - 0.5)).reshape(count, 3, -1).transpose(0, 2, 1)


def _within_chunks(values: np.ndarray, chunks: int) -> tuple[np.ndarray, np.ndarray]:
    """Values [N, 3] as shares of the range of their chunk, and the ranges [chunks, 6] as float32 holds them."""
    starts = np.arange(chunks) * _CHUNK
    low = np.minimum.reduceat(values, starts, axis=0).astype(np.float32).astype(np.float64)
    high = np.maximum.reduceat(values, starts, axis=0).astype(np.float32).astype(np.float64)
    place = np.arange(len(values)) // _CHUNK
    side = np.where(high - low < 1e-5, np.inf, high - low)
    return np.clip((values - low[place]) / side[place], 0.0, 1.0), np.concatenate([low, high], axis=1)


def _pack(shares: np.ndarray, bits: tuple[int, ...]) -> UInt32[np.ndarray, "N"]:
    """Numbers [N, K] in [0, 1] as bit fields, the first one highest."""
    packed = np.zeros(len(shares), np.uint32)
    for index, width in enumerate(bits):
        most = (1 << width) - 1
        packed = packed << np.uint32(width) | np.rint(np.clip(shares[:, index], 0.0, 1.0) * most).astype(np.uint32)
    return packed


def _unpack(packed: np.ndarray, bits: tuple[int, ...]) -> Float[np.ndarray, "N K"]:
    packed, fields = packed.astype(np.uint32), []
    for width in reversed(bits):
        most = np.uint32((1 << width) - 1)
        fields.append((packed & most) / float(most))
        packed = packed >> np.uint32(width)
    return np.stack(fields[::-1], axis=1)


def _pack_rotation(quats: np.ndarray) -> UInt32[np.ndarray, "N"]:
    largest, others = smallest_three(quats)
    return largest.astype(np.uint32) << np.uint32(30) | _pack(others * math.sqrt(0.5) + 0.5, (10, 10, 10))


def _unpack_rotation(packed: np.ndarray) -> Float[np.ndarray, "N 4"]:
    others = (_unpack(packed, (10, 10, 10)) - 0.5) * math.sqrt(2.0)
    return from_smallest_three((packed >> np.uint32(30)).astype(np.int64), others)
