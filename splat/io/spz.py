"""SPZ files: quantised gaussians in one gzip stream (versions 1 to 3), or in zstd streams (version 4, `spz_streams`).

After a 16-byte header (magic "NGSP", version, count, SH degree, fractional bits, flags, reserved) comes one array for
each attribute:

    positions   3 x 24-bit fixed point (version 1: 3 x float16)
    opacities   1 byte, opacity * 255
    colours     3 bytes, (0.15 * coefficient + 0.5) * 255
    scales      3 bytes, (log scale + 10) * 16: standard deviations from 4.5e-5 to 380
    rotations   version 3: 4 bytes, index of the largest component (2 bits, order xyzw) and the others as sign
                and 9-bit magnitude in units of sqrt(1/2) / 511; versions 1 and 2: 3 bytes, xyz, 127.5 is one
    harmonics   coefficients 1.. of all colours, 128 + 128 * coefficient (which is held in [-1, 1))

The frame is x right, y up, z back; see splat.io.frames. Reference: github.com/nianticlabs/spz.
"""

import math
import struct
import zlib

import numpy as np
from jaxtyping import Float, UInt8, UInt32

from splat.io.files import Malformed, Rows, logit, sigmoid, to_bytes, unit_quaternions, warn
from splat.io.spz_streams import (
    ANTIALIASED,
    HAS_EXTENSIONS,
    LONGEST_EXTENSIONS,
    check_extensions,
    check_head,
    check_ratio,
    pack_streams,
    unpack_streams,
)


LARGEST_POSITION = 2**23  # positions are fixed-point numbers of 24 bits


_HEADER = struct.Struct("<4sIIBBBB")
_COLOR_SCALE = 0.15
_SMALLEST_THREE_STEP = math.sqrt(0.5) / 511
_MOST_MEMBERS = 64
_ROWS = 1 << 16


def encode_spz(
    gaussians: Rows, *, version: int = 3, fractional_bits: int | None = None, sh_bits: tuple[int, int] = (5, 4)
) -> bytes:
    """Encodes a whole file.

    Args:
        gaussians: In the format's own frame; at least one, finite numbers, SH degree 0 to 3.
        version: 3 (gzip, which most programs read) or 4 (zstd).
        fractional_bits: Positions are multiples of 2^-fractional_bits, 0 to 23; by default 12, more for objects smaller
            than 1 and fewer for scenes beyond 2048.
        sh_bits: Bits of the coefficients of degree 1 and of those above, 1 to 8 each (other writers use 5 and 4; 8
            doubles the size of files with harmonics).

    Returns:
        The file's bytes.

    Raises:
        ValueError: Positions, bits or version are out of range.
    """
    if version not in (3, 4):
        raise ValueError(f"version is {version}; expected 3 (gzip) or 4 (zstd)")
    extent = float(np.abs(gaussians.means).max())
    most_bits = 23 - max(math.frexp(extent)[1], 0)
    if most_bits < 0:
        raise ValueError(f"positions up to {extent:.3g} exceed SPZ's range of {LARGEST_POSITION}; scale the scene down")
    if fractional_bits is None:
        fractional_bits = min(max(12, 13 - math.frexp(extent)[1]), most_bits, 23)
    if not 0 <= fractional_bits <= most_bits:
        raise ValueError(f"fractional_bits is {fractional_bits}; positions up to {extent:.3g} allow 0 to {most_bits}")
    if len(sh_bits) != 2 or not all(1 <= bits <= 8 for bits in sh_bits):
        raise ValueError(f"sh_bits is {sh_bits}; expected two numbers from 1 to 8")
    count = len(gaussians)
    fixed = np.rint(gaussians.means.astype(np.float64) * 2.0**fractional_bits)
    fixed = np.clip(fixed, -(2**23), 2**23 - 1).astype("<i4")
    bits = np.where(np.arange(gaussians.sh.shape[1] - 1) < 3, *sh_bits)
    steps = 2.0 ** (8 - bits)[None, :, None]
    parts = [
        fixed.view(np.uint8).reshape(-1, 4)[:, :3].tobytes(),
        to_bytes(255.0 * sigmoid(gaussians.opacity_logits)).tobytes(),
        to_bytes(255.0 * (_COLOR_SCALE * gaussians.sh[:, 0].astype(np.float64) + 0.5)).tobytes(),
        to_bytes(16.0 * (gaussians.log_scales.astype(np.float64) + 10.0)).tobytes(),
        _pack_smallest_three(gaussians.quats).tobytes(),
        b"".join(_rest_bytes(gaussians.sh[start : start + _ROWS, 1:], steps) for start in range(0, count, _ROWS)),
    ]
    head = (count, gaussians.sh_degree, fractional_bits, 0)
    if version == 4:
        return pack_streams(*head, parts)
    parts.insert(0, _HEADER.pack(b"NGSP", 3, *head, 0))
    # No time and no name in the header: equal gaussians give equal files.
    stream = zlib.compressobj(6, zlib.DEFLATED, 31)
    return stream.compress(b"".join(parts)) + stream.flush()


def decode_spz(data: bytes) -> Rows:
    """Decodes a whole file of version 1 to 4.

    Args:
        data: Its bytes.

    Returns:
        Its gaussians in the format's own frame. A file of antialiased gaussians gives a warning: nothing in `Rows`
        says that they are to be drawn with `antialiased=True`.

    Raises:
        Malformed: The file is damaged or not supported; never more is allocated than the gaussians that it can hold.
    """
    if data[:4] == b"NGSP":
        version = int.from_bytes(data[4:8], "little")
        if version < 4:
            raise Malformed(f"is SPZ version {version} without its gzip compression; compress it: gzip -n FILE")
        head, streams = unpack_streams(data, _widths)
        count, degree, fractional_bits, flags = head
        _warn_of(flags)
        pairs = zip(streams, _widths(4, degree), strict=True)
        arrays = [np.frombuffer(stream, np.uint8).reshape(count, width) for stream, width in pairs]
        return _rows(arrays, 4, fractional_bits)
    header = _inflate(data, _HEADER.size)[0]
    if len(header) < _HEADER.size:
        raise Malformed("holds no SPZ header")
    magic, version, count, degree, fractional_bits, flags, _ = _HEADER.unpack(header)
    if magic != b"NGSP":
        raise Malformed("is a gzip file, but not of SPZ")
    if version not in (1, 2, 3):
        raise Malformed(
            f"has SPZ version {version} in a gzip stream; versions 1 to 3 are read there, and 4 without gzip"
        )
    check_head(degree, fractional_bits, flags)
    widths = _widths(version, degree)
    size = _HEADER.size + count * sum(widths)
    check_ratio(count, size, len(data))
    spare = LONGEST_EXTENSIONS + 1 if flags & HAS_EXTENSIONS else 1
    body, complete = _inflate(data, size + spare)
    if len(body) < size:
        raise Malformed(f"truncated: {count} gaussians need {size} bytes, the stream holds {len(body)}")
    if not complete or len(body) >= size + spare:
        raise Malformed(f"ends early or holds more than its {count} gaussians")
    if flags & HAS_EXTENSIONS:
        check_extensions(body[size:])
    _warn_of(flags)
    arrays, offset = [], _HEADER.size
    for width in widths:
        arrays.append(np.frombuffer(body, np.uint8, count * width, offset).reshape(count, width))
        offset += count * width
    return _rows(arrays, version, fractional_bits)


def _rest_bytes(rest: Float[np.ndarray, "N K 3"], steps: Float[np.ndarray, "1 K 1"]) -> bytes:
    """Coefficients above degree 0, in float64, which would take the memory of two scenes for all at once."""
    return to_bytes(np.rint((128.0 + 128.0 * rest.astype(np.float64)) / steps) * steps).tobytes()


def _widths(version: int, degree: int) -> list[int]:
    """Bytes a gaussian of each attribute."""
    return [6 if version == 1 else 9, 1, 3, 3, 4 if version >= 3 else 3, 3 * ((degree + 1) ** 2 - 1)]


def _warn_of(flags: int) -> None:
    if flags & ANTIALIASED:
        warn("the SPZ file declares antialiased gaussians: draw them with splat.render(..., antialiased=True)")


def _rows(arrays: list[UInt8[np.ndarray, "N _"]], version: int, fractional_bits: int) -> Rows:
    """Gaussians of the bytes of each attribute."""
    positions, opacities, colors, scales, rotations, rest = arrays
    count = len(positions)
    sh = (rest.reshape(count, rest.shape[1] // 3, 3).astype(np.float32) - 128) / 128
    base = ((colors / 255.0 - 0.5) / _COLOR_SCALE)[:, None].astype(np.float32)
    return Rows(
        means=_positions(positions, version, fractional_bits),
        quats=_unpack_smallest_three(rotations) if version >= 3 else _unpack_first_three(rotations),
        log_scales=scales / 16.0 - 10.0,
        opacity_logits=logit(opacities[:, 0] / 255.0, 0.25 / 255.0),
        sh=np.concatenate([base, sh], axis=1),
    )


def _inflate(data: bytes, most: int) -> tuple[bytes, bool]:
    """At most `most` bytes of a gzip stream of one or more members, and whether that is all of it, checksums right."""
    parts: list[bytes] = []
    try:
        for _ in range(_MOST_MEMBERS):
            stream = zlib.decompressobj(31)
            parts.append(stream.decompress(data, most))
            most -= len(parts[-1])
            data = stream.unused_data
            if not stream.eof or most <= 0 or not data.startswith(b"\x1f\x8b"):
                return b"".join(parts), stream.eof
        raise Malformed(f"holds more than {_MOST_MEMBERS} gzip members")
    except zlib.error as problem:
        raise Malformed(f"is no intact gzip stream ({problem})") from None


def _positions(raw: UInt8[np.ndarray, "N width"], version: int, fractional_bits: int) -> Float[np.ndarray, "N 3"]:
    if version == 1:
        means = raw.view("<f2").astype(np.float64)
        if not np.isfinite(means).all():
            raise Malformed("holds a position that is not finite")
        return means
    bytes_ = raw.reshape(len(raw), 3, 3).astype(np.int32)
    fixed = bytes_[..., 0] | bytes_[..., 1] << 8 | bytes_[..., 2] << 16
    return (fixed - ((fixed & 0x800000) << 1)) * 2.0**-fractional_bits


def _pack_smallest_three(quats: Float[np.ndarray, "N 4"]) -> UInt32[np.ndarray, "N"]:
    """Packs quaternions, wxyz."""
    xyzw = np.roll(unit_quaternions(quats), -1, axis=1)
    largest = np.abs(xyzw).argmax(axis=1)
    # q and -q are one rotation: choose the sign that makes the omitted component positive.
    xyzw = np.where(np.take_along_axis(xyzw, largest[:, None], axis=1) < 0, -xyzw, xyzw)
    magnitude = np.minimum(np.rint(np.abs(xyzw) / _SMALLEST_THREE_STEP), 511).astype(np.uint32)
    fields = (xyzw < 0).astype(np.uint32) << 9 | magnitude
    packed = largest.astype(np.uint32)
    for axis in range(4):
        packed = np.where(largest == axis, packed, packed << 10 | fields[:, axis])
    return packed.astype("<u4")


def _unpack_smallest_three(raw: UInt8[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Unit quaternions, wxyz, of version 3."""
    packed = np.ascontiguousarray(raw).view("<u4").reshape(len(raw))
    largest = packed >> 30
    xyzw = np.zeros((len(raw), 4))
    for axis in (3, 2, 1, 0):
        value = (packed & 511) * _SMALLEST_THREE_STEP * np.where(packed & 512, -1.0, 1.0)
        stored = largest != axis
        xyzw[:, axis] = np.where(stored, value, 0.0)
        packed = np.where(stored, packed >> 10, packed)
    left = np.sqrt(np.maximum(1.0 - (xyzw**2).sum(axis=1), 0.0))
    xyzw[np.arange(len(raw)), largest] = left
    # Stored magnitudes may exceed those of a unit quaternion.
    return unit_quaternions(np.roll(xyzw, 1, axis=1))


def _unpack_first_three(raw: UInt8[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 4"]:
    """Unit quaternions, wxyz with w >= 0, of versions 1 and 2."""
    xyz = raw / 127.5 - 1.0
    w = np.sqrt(np.maximum(1.0 - (xyz**2).sum(axis=1), 0.0))
    return unit_quaternions(np.concatenate([w[:, None], xyz], axis=1))
