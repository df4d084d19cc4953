"""PLY files of gaussians in the layout of the original 3D Gaussian splatting code (INRIA).

The default layout has 62 float properties (x y z, nx ny nz, f_dc_0..2, f_rest_0..44, opacity, scale_0..2, rot_0..3)
with zeros in unused f_rest, which every viewer reads. `f_rest` runs channel by channel: all red coefficients first.
Opacity is a logit, scales are logarithms, rotations wxyz.
"""

import io
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool

from splat.gaussians import Gaussians
from splat.io.compressed_ply import decode_compressed_ply
from splat.io.files import (
    FarAway,
    Malformed,
    Rows,
    about,
    base_coefficients,
    check_finite,
    drop_zero_degrees,
    on_device,
    on_host,
    write_atomically,
)
from splat.io.ply_fields import FILTER, check_properties, fuse_filter
from splat.typing import AnyArray


_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
_REST_COUNTS = {0: 1, 9: 4, 24: 9, 45: 16, 72: 25}
_SCALES = ("scale_0", "scale_1", "scale_2")
_OPAQUE = 100.0  # a logit whose sigmoid is 1 in float32
_MAX_HEADER = 64 * 1024
_SLICE = 4096


def save_ply(
    path: str | os.PathLike,
    gaussians: Gaussians,
    active: Bool[AnyArray, "N"] | None = None,
    *,
    lean: bool = False,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
) -> None:
    """Writes a binary PLY file, atomically.

    Args:
        path: File to write; its folder must exist.
        gaussians: N gaussians of one scene.
        active: [N] bool, rows to write; None for all.
        lean: Leave out normals and unused f_rest properties (most readers, not all, accept it).
        origin: [3] place in the file's world of the gaussians' origin: added to the means, whose x, y and z then have
            double precision, because float32 cannot hold a scene far from the origin.

    Raises:
        NonFinite: Some hold a NaN or an infinity; nothing is written.
        OSError: The file cannot be written, or `path` is a device, FIFO or socket.
    """
    write_atomically(pathlib.Path(path), encode_ply(on_host(gaussians, active), lean=lean, origin=origin))


def encode_ply(gaussians: Rows, *, lean: bool = False, origin: Sequence[float] = (0.0, 0.0, 0.0)) -> bytes:
    """Encodes a whole binary file.

    Args:
        gaussians: Rows to write.
        lean: As for `save_ply`.
        origin: As for `save_ply`.

    Returns:
        The file's bytes.

    Raises:
        NonFinite: Some hold a NaN or an infinity.
    """
    check_finite(gaussians)
    means, sh = gaussians.means, gaussians.sh
    count = len(means)
    rest = sh[:, 1:].transpose(0, 2, 1)
    if not lean:
        # The 45 of degree 3 are the layout itself; degree 4 needs its 72.
        padding = max(15 - rest.shape[2], 0)
        rest = np.concatenate([rest, np.zeros((count, 3, padding), np.float32)], axis=2)
    rest = rest.reshape(count, 3 * rest.shape[2])
    normals = np.zeros((count, 0 if lean else 3), np.float32)
    table = np.concatenate(
        [
            means,
            normals,
            sh[:, 0],
            rest,
            gaussians.opacity_logits[:, None],
            gaussians.log_scales,
            gaussians.quats,
        ],
        axis=1,
    )
    names = ["x", "y", "z"] + ([] if lean else ["nx", "ny", "nz"]) + [f"f_dc_{i}" for i in range(3)]
    names += [f"f_rest_{i}" for i in range(rest.shape[1])] + ["opacity"]
    names += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    shift = np.asarray(origin, np.float64)
    kinds = ["double" if shift.any() and name in "xyz" else "float" for name in names]
    header += [f"property {kind} {name}" for kind, name in zip(kinds, names, strict=True)] + ["end_header", ""]
    content = table.astype("<f4", copy=False)
    if shift.any():
        rows = np.empty(count, [("means", "<f8", 3), ("rest", "<f4", content.shape[1] - 3)])
        rows["means"], rows["rest"] = means.astype(np.float64) + shift[None], content[:, 3:]
        content = rows
    return b"".join(["\n".join(header).encode(), content.data])


def load_ply(path: str | os.PathLike, *, origin: Sequence[float] = (0.0, 0.0, 0.0)) -> Gaussians:
    """Reads gaussians from a PLY file: binary of either byte order or ascii, any property types and order.

    Args:
        path: File with at least x, y, z, opacity, scale_0..2, rot_0..3 and f_dc_0..2 (or red, green, blue); f_rest_* up
            to degree 4 are optional. Mip-Splatting's filter_3D is fused into scales and opacities. Other properties are
            skipped with a warning, those that change the picture are refused; other elements are skipped. Colours count
            by their type: 255 of uchar and 65535 of ushort are full, 1 of float (255 where a value exceeds 1).
        origin: [3] point that becomes the origin, subtracted before positions of double precision become float32.

    Returns:
        `Gaussians` of the file's SH degree, without trailing degrees whose coefficients are all zero. The limits that
        other programs write are finite: an opacity of +inf becomes a logit of 100 (opaque), -inf of -100
        (transparent), a log scale of -inf that of float32's smallest normal number (flat).

    Raises:
        ValueError: The file is not such a PLY file; one line says why.
        OSError: The file cannot be read.
    """
    data = pathlib.Path(path).read_bytes()
    try:
        return on_device(about(decode_ply(data), origin))
    except FarAway as problem:
        raise ValueError(f"{path}: {problem}") from None
    except Malformed as problem:
        expected = "expected a PLY file of gaussians (3D Gaussian splatting layout)"
        raise ValueError(f"{path}: {problem}; {expected}") from None


def decode_ply(data: bytes) -> Rows:
    """Decodes a whole file.

    Args:
        data: Its bytes, as `load_ply` reads them.

    Returns:
        Its gaussians.

    Raises:
        Malformed: The file is damaged or not supported; nothing is allocated for rows that it does not hold.
    """
    encoding, elements, body = _split(data)
    if any(name == "packed_position" for element in elements if element[0] == "vertex" for name, _ in element[2]):
        if encoding == "ascii":
            raise Malformed("is a compressed PLY in ascii, which is not read")
        return decode_compressed_ply({name: rows for name, rows, _ in _binary(body, elements, encoding)})
    return _gaussians(*_vertices(encoding, elements, body))


def ply_vertices(data: bytes) -> dict[str, np.ndarray]:
    """The vertex element's scalar properties, of a point cloud for instance.

    Args:
        data: Bytes of a PLY file.

    Returns:
        {name: [N] values in the property's own type}.

    Raises:
        Malformed: The file is damaged or not supported; nothing is allocated for rows that it does not hold.
    """
    columns, types = _vertices(*_split(data))
    return {name: _as_declared(values, types[name]) for name, values in columns.items()}


def _as_declared(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Numbers of a text as the type of their property holds them."""
    if values.dtype == kind or kind.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(kind, copy=False)
    limits = np.iinfo(kind)
    return np.nan_to_num(values, nan=0.0).clip(limits.min, limits.max).astype(kind)


_Elements = list[tuple[str, int, list[tuple[str, str]]]]


def _split(data: bytes) -> tuple[str, _Elements, memoryview]:
    """Encoding and elements of a file's header, and what follows it."""
    if not data.startswith(b"ply"):
        raise Malformed("does not start with 'ply'")
    end = data.find(b"end_header", 0, _MAX_HEADER)
    newline = data.find(b"\n", end, end + 16) if end >= 0 else -1
    if newline < 0:
        raise Malformed(f"no end_header line in the first {_MAX_HEADER} bytes")
    encoding, elements = _parse_header(data[:end].decode("latin-1").splitlines()[1:])
    return encoding, elements, memoryview(data)[newline + 1 :]


def _vertices(encoding: str, elements: _Elements, body: memoryview) -> tuple[dict[str, np.ndarray], np.dtype]:
    """The vertex element's scalar properties by name, and their types as declared."""
    if encoding == "ascii":
        return _read_ascii(bytes(body), elements)
    for name, rows, dtype in _binary(body, elements, encoding):
        if name == "vertex":
            return rows, dtype
    raise Malformed("has no element 'vertex'")


def _binary(
    body: memoryview, elements: _Elements, encoding: str
) -> Iterator[tuple[str, dict[str, np.ndarray], np.dtype]]:
    """Name, columns and types of one element after the other."""
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}[encoding]
    offset = 0
    for name, count, properties in elements:
        dtype = _dtype(properties, order)
        size = dtype.itemsize * count
        if offset + size > len(body):
            have = len(body) - offset
            raise Malformed(f"truncated: element {name} of {count} rows needs {size} bytes, {have} are left")
        rows = np.frombuffer(body, dtype, count, offset)
        yield name, {key: rows[key] for key in dtype.names or ()}, dtype
        offset += size


def _parse_header(lines: list[str]) -> tuple[str, _Elements]:
    encoding, elements = "", []
    for line in lines:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3:
            encoding = words[1]
        elif words[0] == "element" and len(words) == 3 and words[2].isascii() and words[2].isdigit():
            if len(words[2]) > 12:
                raise Malformed(f"claims {words[2][:20]} rows")
            elements.append((words[1], int(words[2]), []))
        elif words[0] == "property" and elements and len(words) == 3 and words[1] in _TYPES:
            elements[-1][2].append((words[2], words[1]))
        elif words[0] == "property" and elements and len(words) == 5 and words[1] == "list":
            elements[-1][2].append((words[4], "list"))
        else:
            raise Malformed(f"header line {line[:60]!r} is not understood")
    if encoding not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise Malformed(f"format {encoding[:30]!r} is neither ascii nor binary_little_endian/big_endian")
    return encoding, elements


def _dtype(properties: list[tuple[str, str]], order: str) -> np.dtype:
    names = [name for name, _ in properties]
    if not names:
        raise Malformed("has an element without properties")
    if len(set(names)) != len(names):
        raise Malformed("names a property twice")
    if any(kind == "list" for _, kind in properties):
        raise Malformed("has a list property before or in the vertex element")
    return np.dtype([(name, order + _TYPES[kind]) for name, kind in properties])


def _read_ascii(body: bytes, elements: list) -> tuple[dict[str, np.ndarray], np.dtype]:
    lines = io.BytesIO(body)
    for name, count, properties in elements:
        if name != "vertex":
            have = sum(1 for _ in itertools.islice(lines, count))
            if have < count:
                raise Malformed(f"truncated: element {name} needs {count} lines, {have} are left")
            continue
        dtype = _dtype(properties, "<")
        names = dtype.names or ()
        # A digit and a separator each, before anything is allocated for them.
        if 2 * count * len(names) > len(body) + 1:
            raise Malformed(f"truncated: {count} lines of {len(names)} numbers do not fit into {len(body)} bytes")
        table = np.empty((count, len(names)))
        # In slices, because a number that is split off takes twenty times its place in the file.
        for start in range(0, count, _SLICE):
            rows = [line.split() for line in itertools.islice(lines, min(_SLICE, count - start))]
            if len(rows) < min(_SLICE, count - start):
                raise Malformed(f"truncated: {count} vertex lines are announced, {start + len(rows)} are there")
            if any(len(row) != len(names) for row in rows):
                raise Malformed(f"a vertex line does not hold {len(names)} numbers")
            try:
                table[start : start + len(rows)] = np.array(rows, dtype=object).astype(np.float64)
            except ValueError:
                raise Malformed("a vertex line holds something that is not a number") from None
        return {key: table[:, i] for i, key in enumerate(names)}, dtype
    raise Malformed("has no element 'vertex'")


def _gaussians(columns: dict[str, np.ndarray], types: np.dtype) -> Rows:
    def take(*names: str, kind: type = np.float32) -> np.ndarray:
        missing = [name for name in names if name not in columns]
        if missing:
            raise Malformed(f"has no property {', '.join(missing)}")
        # Doubles beyond float32 become inf here; the renderer counts them as invalid.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.stack([columns[name].astype(kind) for name in names], axis=-1)

    double = any(name in columns and types[name] == np.dtype(types[name].str[0] + "f8") for name in "xyz")
    means, scales = take("x", "y", "z", kind=np.float64 if double else np.float32), take(*_SCALES)
    quats, opacity = take("rot_0", "rot_1", "rot_2", "rot_3"), take("opacity")[:, 0]
    # Limits of the activations, which have pictures; logarithms and logits of other numbers that are not finite do not.
    scales = np.where(np.isneginf(scales), np.log(np.finfo(np.float32).tiny), scales).astype(np.float32)
    opacity = np.where(np.isinf(opacity), np.copysign(_OPAQUE, opacity), opacity).astype(np.float32)
    if "f_dc_0" not in columns and "red" in columns:
        sh = base_coefficients(point_colors(take("red", "green", "blue", kind=np.float64), types["red"]))
    else:
        sh = take("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    check_properties(columns)
    if FILTER in columns:
        scales, opacity = fuse_filter(scales, opacity, take(FILTER)[:, 0])
    rest = sum(name.startswith("f_rest_") for name in columns)
    if rest not in _REST_COUNTS:
        raise Malformed(f"has {rest} f_rest properties, not one of {sorted(_REST_COUNTS)}")
    if rest:
        values = take(*(f"f_rest_{i}" for i in range(rest))).reshape(len(means), 3, rest // 3)
        sh = np.concatenate([sh, values.transpose(0, 2, 1)], axis=1)
        sh = drop_zero_degrees(sh)
    return Rows(means=means, quats=quats, log_scales=scales, opacity_logits=opacity, sh=sh)


def point_colors(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Colours in [0, 1] of a point cloud's.

    Args:
        values: [N, 3] red, green and blue, float64.
        kind: Type of the properties: integers count by its range, floats, and integers wider than any colour, by
            whether a value exceeds 1, and 255.

    Returns:
        [N, 3] float64; numbers out of the range stay so.
    """
    with np.errstate(invalid="ignore"):
        most = values.max(initial=0.0)
    # Floats have two conventions, and so have integers that are wider than any colour.
    if kind.kind == "f":
        return values / (255.0 if most > 1.0 else 1.0)
    return values / (255.0 if kind.itemsize > 2 and most <= 255.0 else np.iinfo(kind).max)
