"""Primitives compressed by Draco (glTF's KHR_draco_mesh_compression), through DracoPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from im3d_jax.data.meshes.model import Limits, MeshError


_MESH, _EDGEBREAKER, _METADATA = 1, 1, 0x8000


def decode(content: bytes, attributes: dict[str, int], limits: Limits) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A compressed primitive.

    Args:
        content: The buffer view.
        attributes: glTF's names of the attributes, with Draco's ids.
        limits: Compared with the header first.

    Returns:
        (the attributes [V, width] of the stored types, triangles [T, 3] uint32).

    Raises:
        MeshError: It is damaged or too large, or DracoPy is not installed.
    """
    faces = face_count(content)
    if faces is not None and faces > limits.triangles:
        raise MeshError(f"has {faces} compressed triangles; at most {limits.triangles} are read")
    try:
        import DracoPy  # pyright: ignore[reportMissingImports]  # of an extra
    except ModuleNotFoundError:
        raise MeshError("is compressed by Draco; install the extra [data], or DracoPy") from None
    try:
        mesh: Any = DracoPy.decode(content)
        triangles = np.asarray(mesh.faces, np.uint32).reshape(-1, 3)
        found = {
            name: np.asarray(mesh.get_attribute_by_unique_id(number)["data"]) for name, number in attributes.items()
        }
    except Exception as error:  # DracoPy raises its own kinds, and whatever Cython does
        raise MeshError(f"is damaged: Draco cannot decode it ({str(error) or type(error).__name__})") from None
    return {name: values.reshape(len(values), -1) for name, values in found.items()}, triangles


def face_count(content: bytes) -> int | None:
    """Triangles that a Draco stream announces; None where its header does not tell.

    Raises:
        MeshError: It is no Draco mesh.
    """
    if content[:5] != b"DRACO" or len(content) < 16:
        raise MeshError("is damaged: compressed data without Draco's header")
    major, minor, kind, method = content[5:9]
    if kind != _MESH:
        raise MeshError("is damaged: a Draco point cloud where a mesh is expected")
    if (major, minor) < (2, 2) or int.from_bytes(content[9:11], "little") & _METADATA:
        return None
    offset = 11
    if method == _EDGEBREAKER:
        _, offset = _varint(content, offset + 1)
    return _varint(content, offset)[0]


def _varint(content: bytes, offset: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and where it ends."""
    value = 0
    for i, byte in enumerate(content[offset : offset + 5]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, offset + i + 1
    raise MeshError("is damaged: a number in Draco's header does not end")
