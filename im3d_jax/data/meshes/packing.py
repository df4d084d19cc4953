"""The arrays of a packed mesh: quantised to what a picture can show, and laid out so that they compress well."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from im3d_jax.data.meshes.model import MeshError, Part, to_linear, to_srgb


_STEPS = 65535.0
# Above this, a picture without sharp colours is kept lossily.
_LOSSLESS_BYTES = 64 << 10


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a part.

    Attributes:
        name: Of the attribute of `Part`.
        kind: numpy's name of the stored integers.
        width: Columns.
    """

    name: str
    kind: str
    width: int

    def bytes(self, rows: int) -> int:
        """Stored size of `rows` rows."""
        return rows * self.width * np.dtype(self.kind).itemsize


def fields(layout: dict[str, Any]) -> list[Field]:
    """The stored arrays of a part, in order; triangles are the last."""
    found = [Field("positions", "uint16", 3)]
    found += [Field("normals", "uint16", 2)] if layout["normals"] else []
    found += [Field("uv", "uint16", 2)] if layout["uv_range"] else []
    found += [Field("colours", "uint8", 4)] if layout["colours"] else []
    return [*found, Field("triangles", "uint32", 3)]


def pack_part(part: Part, material: int) -> tuple[dict[str, Any], bytes]:
    """A part as (its layout for the index, its bytes before compression).

    Positions have steps of 3e-5 (the object's radius is 0.95), normals about 0.003 degrees, coordinates of pictures
    1/65535 of their range, colours 8 bits of sRGB.
    """
    order, triangles = _in_order(part.triangles, len(part.positions))
    arrays: list[np.ndarray] = [
        np.round((part.positions[order] + 1.0) * (0.5 * _STEPS)).clip(0, _STEPS).astype(np.uint16)
    ]
    uv_range = None
    if part.normals is not None:
        arrays.append(_octahedral(part.normals[order]))
    if part.uv is not None:
        low, high = part.uv.min(0).astype(np.float64), part.uv.max(0).astype(np.float64)
        span = np.where(high > low, high - low, 1.0)
        arrays.append(np.round((part.uv[order] - low) / span * _STEPS).clip(0, _STEPS).astype(np.uint16))
        uv_range = [*low.tolist(), *span.tolist()]
    if part.colours is not None:
        rgba = np.concatenate([to_srgb(part.colours[order, :3]), part.colours[order, 3:]], -1)
        arrays.append(np.round(rgba * 255.0).clip(0, 255).astype(np.uint8))
    arrays.append(triangles)
    layout = {
        "vertices": len(part.positions),
        "triangles": len(triangles),
        "normals": part.normals is not None,
        "uv_range": uv_range,
        "colours": part.colours is not None,
        "material": material,
    }
    return layout, b"".join(map(_shuffle, arrays))


def unpack_part(layout: dict[str, Any], content: memoryview, material: Any) -> Part:
    """The part that `pack_part` packed.

    Raises:
        MeshError: The bytes are not those of the layout.
    """
    arrays, offset = {}, 0
    for field in fields(layout):
        rows = layout["triangles" if field.name == "triangles" else "vertices"]
        size = field.bytes(rows)
        arrays[field.name] = _unshuffle(content[offset : offset + size], field, rows)
        offset += size
    if offset != len(content) or arrays["triangles"].max(initial=0) >= max(layout["vertices"], 1):
        raise MeshError("is damaged: its arrays are not those that its index announces")
    uv = colours = None
    if layout["uv_range"]:
        low, span = np.array(layout["uv_range"][:2]), np.array(layout["uv_range"][2:])
        uv = (arrays["uv"] / _STEPS * span + low).astype(np.float32)
    if layout["colours"]:
        rgba = arrays["colours"].astype(np.float32) / 255.0
        colours = np.concatenate([to_linear(rgba[:, :3]), rgba[:, 3:]], -1)
    return Part(
        positions=(arrays["positions"] / (0.5 * _STEPS) - 1.0).astype(np.float32),
        triangles=arrays["triangles"],
        material=material,
        normals=_from_octahedral(arrays["normals"]) if layout["normals"] else None,
        uv=uv,
        colours=colours,
    )


def packed_size(layout: dict[str, Any]) -> int:
    """Bytes of a part before compression, by its layout."""
    return sum(
        field.bytes(layout["triangles" if field.name == "triangles" else "vertices"]) for field in fields(layout)
    )


def _in_order(triangles: np.ndarray, vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """(vertices in the order in which triangles first use them, triangles with those numbers)."""
    corners = triangles.reshape(-1).astype(np.int64)
    used, first = np.unique(corners, return_index=True)
    order = used[np.argsort(first, kind="stable")]
    order = np.concatenate([order, np.setdiff1d(np.arange(vertices), order)])
    numbers = np.empty(vertices, np.uint32)
    numbers[order] = np.arange(vertices, dtype=np.uint32)
    return order, numbers[triangles]


def _shuffle(array: np.ndarray) -> bytes:
    """Differences from row to row (from corner to corner for triangles), lowest bytes of all first."""
    flat = array.reshape(-1, 1) if array.dtype == np.uint32 else array
    differences = np.diff(flat, axis=0, prepend=np.zeros((1, flat.shape[1]), flat.dtype))  # wraps around
    planes = np.ascontiguousarray(differences.T).astype(f"<u{array.dtype.itemsize}")
    return planes.view(np.uint8).reshape(-1, array.dtype.itemsize).T.tobytes()


def _unshuffle(content: memoryview, field: Field, rows: int) -> np.ndarray:
    kind = np.dtype(field.kind)
    columns, length = (1, rows * field.width) if field.kind == "uint32" else (field.width, rows)
    if len(content) != columns * length * kind.itemsize:
        raise MeshError("is damaged: its arrays are shorter than its index announces")
    planes = np.frombuffer(content, np.uint8).reshape(kind.itemsize, -1).T
    differences = np.ascontiguousarray(planes).view(f"<u{kind.itemsize}").reshape(columns, length)
    return np.cumsum(differences, axis=1, dtype=kind).T.reshape(rows, field.width)


def _octahedral(normals: np.ndarray) -> np.ndarray:
    """Unit vectors as points of a square (Meyer et al., "On floating-point normal vectors", 2010); [V, 2] uint16."""
    n = normals.astype(np.float64)
    n = n / np.maximum(np.abs(n).sum(-1, keepdims=True), 1e-12)
    folded = (1.0 - np.abs(n[:, 1::-1])) * np.where(n[:, :2] >= 0.0, 1.0, -1.0)
    square = np.where(n[:, 2:] < 0.0, folded, n[:, :2])
    return np.round((square + 1.0) * (0.5 * _STEPS)).clip(0, _STEPS).astype(np.uint16)


def _from_octahedral(stored: np.ndarray) -> np.ndarray:
    square = stored / (0.5 * _STEPS) - 1.0
    z = 1.0 - np.abs(square).sum(-1, keepdims=True)
    folded = (1.0 - np.abs(square[:, ::-1])) * np.where(square >= 0.0, 1.0, -1.0)
    n = np.concatenate([np.where(z < 0.0, folded, square), z], -1)
    return (n / np.linalg.norm(n, axis=-1, keepdims=True)).astype(np.float32)


def encode_picture(pixels: np.ndarray) -> bytes:
    """A texture as PNG; as JPEG or, with alpha, WebP where that would be large."""
    opaque = bool((pixels[..., 3] == 255).all())
    picture = Image.fromarray(pixels[..., :3] if opaque else pixels)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    if buffer.tell() <= _LOSSLESS_BYTES:
        return buffer.getvalue()
    smaller = io.BytesIO()
    if opaque:
        picture.save(smaller, format="JPEG", quality=92, subsampling=0)
    else:
        picture.save(smaller, format="WEBP", quality=92, alpha_quality=100, exact=True)
    return min(buffer.getvalue(), smaller.getvalue(), key=len)
