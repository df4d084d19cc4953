"""Reads PLY and STL through trimesh; colours of PLY are sRGB."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np

from im3d_jax.data.meshes import textures
from im3d_jax.data.meshes.files import Files
from im3d_jax.data.meshes.model import PLAIN, Limits, Material, Mesh, MeshError, Part, Texture, to_linear


def read_scan(files: Files, limits: Limits, kind: str) -> Mesh:
    """Reads a PLY or STL file in its own axes.

    Args:
        files: The file.
        limits: Compared with the header first.
        kind: "ply" or "stl".

    Raises:
        MeshError: It is damaged, too large or empty, or trimesh is not installed.
    """
    content = files.main()
    announced = ply_counts(content) if kind == "ply" else stl_counts(content)
    for count, most, name in zip(
        announced, (limits.vertices, limits.triangles), ("vertices", "triangles"), strict=True
    ):
        if count > most:
            raise MeshError(f"has {count} {name}; at most {most} are read")
    try:
        import trimesh  # pyright: ignore[reportMissingImports]  # of an extra
    except ModuleNotFoundError:
        raise MeshError(f"is a {kind.upper()} file; install the extra [data], or trimesh, to read it") from None
    try:
        mesh: Any = trimesh.load(io.BytesIO(content), file_type=kind, process=False, force="mesh")
        return _part_of(mesh, content, files, limits)
    except MeshError:
        raise
    except Exception as error:  # trimesh lets whatever went wrong through
        raise MeshError(f"is damaged ({type(error).__name__}: {error})") from None


def ply_counts(content: bytes) -> tuple[int, int]:
    """(vertices, faces) that a PLY header announces.

    Raises:
        MeshError: It has no header.
    """
    head, end, _ = content[: 1 << 20].partition(b"end_header")
    if not end or not head.startswith(b"ply"):
        raise MeshError("is no PLY file")
    counts = {name: int(count) for name, count in re.findall(rb"element\s+(\w+)\s+(\d+)", head)}
    return counts.get(b"vertex", 0), counts.get(b"face", 0)


def stl_counts(content: bytes) -> tuple[int, int]:
    """(0, triangles) that an STL file announces, or that its text holds."""
    if len(content) >= 84 and 84 + 50 * int.from_bytes(content[80:84], "little") == len(content):
        return 0, int.from_bytes(content[80:84], "little")
    return 0, content.count(b"facet normal")


def _part_of(mesh: Any, content: bytes, files: Files, limits: Limits) -> Mesh:
    positions = np.asarray(mesh.vertices, np.float32)
    triangles = np.asarray(mesh.faces, np.uint32).reshape(-1, 3)
    colours = uv = None
    material = PLAIN
    if mesh.visual.kind == "vertex":
        colours = np.asarray(mesh.visual.vertex_colors)
    elif mesh.visual.kind == "face":
        colours = np.repeat(np.asarray(mesh.visual.face_colors), 3, 0)
        positions, triangles = (
            positions[triangles.reshape(-1)],
            np.arange(triangles.size, dtype=np.uint32).reshape(-1, 3),
        )
    elif mesh.visual.kind == "texture" and mesh.visual.uv is not None:
        named = re.search(rb"comment\s+TextureFile\s+(.+)", content[: 1 << 16])
        if named is not None:
            name = named.group(1).decode("utf-8", "replace").strip()
            material = Material(texture=Texture(textures.decode(files.reference(name), name, limits, alpha=False)))
            uv = (np.asarray(mesh.visual.uv, np.float32) * (1.0, -1.0) + (0.0, 1.0)).astype(np.float32)
    normals = None
    if colours is None or mesh.visual.kind == "vertex":
        stored = mesh._cache.cache.get("vertex_normals")  # those of the file; the property would make new ones
        normals = None if stored is None or len(stored) != len(positions) else np.asarray(stored, np.float32)
    if colours is not None:
        rgba = colours.astype(np.float32) / 255.0
        material = Material()
        colours = np.concatenate([to_linear(rgba[:, :3]), np.ones((len(rgba), 1), np.float32)], -1)
    return Mesh((Part(positions, triangles, material, normals, uv, colours),))
