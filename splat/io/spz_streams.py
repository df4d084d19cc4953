"""The container of SPZ version 4: a plain header, a table of contents and one zstd stream for each attribute.

    header    32 bytes: magic "NGSP", version, count (uint32), SH degree, fractional bits, flags, streams (uint8),
              offset of the table (uint32), 12 bytes reserved; extensions may lie between header and table
    table     for each stream its compressed and its plain size, uint64
    streams   positions, opacities, colours, scales, rotations, harmonics; empty ones are left out

Checks that all versions share are here too. Reference: github.com/nianticlabs/spz.
"""

import io
import struct
from collections.abc import Callable, Sequence

import zstandard

from splat.io.files import Malformed


ANTIALIASED, HAS_EXTENSIONS = 1, 2
_HEADER, _ENTRY = struct.Struct("<4sIIBBBBI12x"), struct.Struct("<QQ")
_LEVEL = 12  # that of the format's own library
_COORDINATE_SYSTEM_EXTENSION, _RIGHT_UP_BACK = 0xADBE0003, 4
# Deflate cannot exceed 1032 to 1; no scene exceeds 64 to 1, but attacks that fill the memory do.
_HIGHEST_RATIO, _HIGHEST_RATIO_LARGE, _LARGE = 1032, 64, 1 << 24
LONGEST_EXTENSIONS = 1 << 16  # bytes


def pack_streams(count: int, degree: int, fractional_bits: int, flags: int, parts: Sequence[bytes]) -> bytes:
    """Encodes a file.

    Args:
        count: Gaussians.
        degree: Of the harmonics.
        fractional_bits: Of the positions.
        flags: Of the header.
        parts: Bytes of each attribute.
    """
    plain = [part for part in parts if part]
    streams = [zstandard.ZstdCompressor(level=_LEVEL).compress(part) for part in plain]
    header = _HEADER.pack(b"NGSP", 4, count, degree, fractional_bits, flags, len(streams), _HEADER.size)
    table = [_ENTRY.pack(len(stream), len(part)) for stream, part in zip(streams, plain, strict=True)]
    return b"".join([header, *table, *streams])


def unpack_streams(
    data: bytes, widths_of: Callable[[int, int], list[int]]
) -> tuple[tuple[int, int, int, int], list[bytes]]:
    """Decodes a file.

    Args:
        data: Its bytes.
        widths_of: Bytes a gaussian of each attribute, of a version and a degree.

    Returns:
        Count, degree, fractional bits and flags; and the bytes of each attribute.

    Raises:
        Malformed: The file is damaged or of a later version; never more is allocated than its gaussians need.
    """
    if len(data) < _HEADER.size:
        raise Malformed("holds no SPZ header")
    _, version, count, degree, fractional_bits, flags, streams, table = _HEADER.unpack_from(data)
    if version != 4:
        raise Malformed(f"has SPZ version {version}; versions 1 to 4 are read")
    check_head(degree, fractional_bits, flags)
    sizes = [width * count for width in widths_of(version, degree)]
    check_ratio(count, sum(sizes), len(data))
    stored = [size for size in sizes if size]
    offset = table + _ENTRY.size * streams
    if streams != len(stored) or table < _HEADER.size or offset > len(data):
        raise Malformed(f"has {streams} streams at {table} of {len(data)} bytes; expected {len(stored)}")
    if flags & HAS_EXTENSIONS:
        if table - _HEADER.size > LONGEST_EXTENSIONS:
            raise Malformed(f"has extensions of {table - _HEADER.size} bytes; at most {LONGEST_EXTENSIONS} are read")
        check_extensions(data[_HEADER.size : table])
    parts = []
    for index, expected in enumerate(stored):
        packed, plain = _ENTRY.unpack_from(data, table + _ENTRY.size * index)
        if plain != expected or packed > len(data) - offset:
            raise Malformed(
                f"truncated: stream {index} of {count} gaussians needs {expected} bytes, {plain} are announced"
            )
        try:
            # A reader, because a frame may claim any size.
            with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data[offset : offset + packed])) as stream:
                part = stream.read(expected + 1)
        except zstandard.ZstdError as problem:
            raise Malformed(f"is no intact zstd stream ({problem})") from None
        if len(part) != expected:
            raise Malformed(f"truncated: stream {index} holds {len(part)} bytes, not {expected}")
        parts.append(part)
        offset += packed
    left = iter(parts)
    return (count, degree, fractional_bits, flags), [next(left) if size else b"" for size in sizes]


def check_head(degree: int, fractional_bits: int, flags: int) -> None:
    """Refuses headers that no gaussians can have."""
    if degree > 4:
        raise Malformed(f"has SH degree {degree}; expected 0 to 4")
    if fractional_bits > 24:
        raise Malformed(f"has {fractional_bits} fractional bits of 24")
    if flags & ~(ANTIALIASED | HAS_EXTENSIONS):
        raise Malformed(f"has the flags {flags:#04x}, of which only 0x01 and 0x02 are known")


def check_ratio(count: int, size: int, length: int) -> None:
    """Refuses files that claim more than compression can hide in them.

    Args:
        count: Gaussians.
        size: Their bytes.
        length: Of the file.
    """
    ratio = size / length
    if ratio > _HIGHEST_RATIO or (size > _LARGE and ratio > _HIGHEST_RATIO_LARGE):
        raise Malformed(f"claims {count} gaussians, too many for {length} bytes")


def check_extensions(data: bytes) -> None:
    """Refuses the one extension that changes the frame; records are (type, length, content)."""
    while len(data) >= 8:
        kind, size = struct.unpack_from("<II", data)
        content, data = data[8 : 8 + size], data[8 + size :]
        if kind == _COORDINATE_SYSTEM_EXTENSION and content != struct.pack("<I", _RIGHT_UP_BACK):
            raise Malformed("declares a coordinate system other than right-up-back")
