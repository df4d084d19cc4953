"""Reads a mesh file of any format into the rig's world."""

from __future__ import annotations

import os
import pathlib

from im3d_jax.data.meshes.files import Files
from im3d_jax.data.meshes.model import Limits, Mesh, MeshError
from im3d_jax.data.meshes.placing import place


SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")
_UP = {".glb": "y", ".gltf": "y", ".obj": "y", ".ply": "y", ".stl": "z"}


def read_mesh(
    path: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    limits: Limits | None = None,
    up: str = "auto",
) -> Mesh:
    """Reads a mesh and places it: z up, front towards +x, in the sphere of radius 0.95.

    Args:
        path: .glb, .gltf, .obj, .ply or .stl.
        root: Folder that the file's references may not leave; the file's own by default.
        limits: What the file may ask for.
        up: "y" or "z" for files whose format does not say it (OBJ, PLY, STL); "auto" takes y, and z for STL.

    Raises:
        MeshError: One line, without the file's name: what is wrong with it.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MeshError(f"has the unknown suffix {suffix!r}; expected one of {', '.join(SUFFIXES)}")
    limits = Limits() if limits is None else limits
    mesh = _read(Files(path, None if root is None else pathlib.Path(root), limits), suffix, limits)
    declared = suffix in (".glb", ".gltf")
    return place(mesh, _UP[suffix] if declared or up == "auto" else up)


def _read(files: Files, suffix: str, limits: Limits) -> Mesh:
    try:
        if suffix in (".glb", ".gltf"):
            from im3d_jax.data.meshes.gltf import read_gltf

            mesh = read_gltf(files, limits)
        elif suffix == ".obj":
            from im3d_jax.data.meshes.obj import read_obj

            mesh = read_obj(files, limits)
        else:
            from im3d_jax.data.meshes.scans import read_scan

            mesh = read_scan(files, limits, suffix[1:])
    except MemoryError:
        raise MeshError("needs more memory than there is") from None
    if not mesh.parts:
        raise MeshError("is empty: it has no triangles")
    return mesh
