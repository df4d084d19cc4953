"""Puts a mesh into the rig's world: z up, its front towards the first camera, centred, in the sphere of Toybox."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from im3d_jax.data.meshes.model import Mesh, MeshError, Part


RADIUS = 0.95  # of the bounding sphere: the largest of Toybox; the rig's picture just holds 1
_SMALLEST, _LARGEST = 1e-9, 1e9
# Columns: where the file's x, y and z go. Frame 0 looks from +x, where the front has to be.
UP_AXES = {
    "y": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),  # glTF: front +z
    "z": np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),  # Blender: front -y
}


def turned(mesh: Mesh, yaw: float) -> Mesh:
    """A mesh of the rig's world turned about +z, counter-clockwise seen from above, by `yaw` radians."""
    c, s = math.cos(yaw), math.sin(yaw)
    turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]], np.float32)  # for row vectors
    parts = tuple(
        dataclasses.replace(
            part, positions=part.positions @ turn, normals=None if part.normals is None else part.normals @ turn
        )
        for part in mesh.parts
    )
    return dataclasses.replace(mesh, parts=parts)


def place(mesh: Mesh, up: str) -> Mesh:
    """Turns a mesh upright, centres and scales it.

    Args:
        mesh: In its file's axes.
        up: "y" (front +z) or "z" (front -y): the file's convention.

    Returns:
        The mesh in the rig's world, inside of the sphere of `RADIUS` about the origin. Vertices without a triangle,
        triangles without area and parts without triangles are gone.

    Raises:
        MeshError: It has no triangles with an area, or fewer than two, or coordinates that are no numbers.
    """
    turn = UP_AXES[up]
    parts = [_compact(part) for part in mesh.parts if len(part.triangles)]
    if not parts:
        raise MeshError("is empty: it has no triangles")
    if not all(np.isfinite(part.positions).all() for part in parts):
        raise MeshError("has coordinates that are no numbers")
    points = [part.positions.astype(np.float64) @ turn.T for part in parts]
    centre, radius = bounding_sphere(np.concatenate(points))
    if not _SMALLEST < radius < _LARGEST:
        raise MeshError(f"has a bounding sphere of radius {radius:.3g}; expected {_SMALLEST:g} to {_LARGEST:g}")
    scale = RADIUS / radius
    placed = []
    for part, where in zip(parts, points, strict=True):
        moved = (where - centre) * scale
        keep = _areas(moved, part.triangles) > 1e-12
        if not keep.any():
            continue
        normals = None if part.normals is None else _unit(part.normals @ turn.T, moved, part.triangles)
        placed.append(
            dataclasses.replace(
                part,
                positions=moved.astype(np.float32),
                triangles=part.triangles[keep],
                normals=normals,
                uv=None if part.uv is None else _near_zero(part.uv, part),
            )
        )
    if sum(len(part.triangles) for part in placed) < 2:
        raise MeshError("is degenerate: it has fewer than two triangles with an area")
    return dataclasses.replace(mesh, parts=tuple(placed))


def bounding_sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
    """(centre, radius) of a sphere about points [N, 3], the smallest to about one part in a thousand.

    The centre moves ever less towards the farthest point (Badoiu and Clarkson, "Smaller core-sets for balls", 2003),
    among the points that are extreme in one of many directions; the radius then takes all points in.
    """
    middle = 0.5 * (points.min(0) + points.max(0))
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(256, 3))
    centred = points - middle
    candidates = set()
    for rows in np.array_split(directions, 16):
        candidates |= set(np.argmax(centred @ rows.T, 0).tolist())
    extreme = centred[sorted(candidates)]
    centre = np.zeros(3)
    for i in range(1, 2000):
        farthest = extreme[np.argmax(((extreme - centre) ** 2).sum(-1))]
        centre = centre + (farthest - centre) / (i + 1)
    return middle + centre, float(np.sqrt(((centred - centre) ** 2).sum(-1).max()))


def _compact(part: Part) -> Part:
    """The part without the vertices that no triangle uses."""
    used = np.zeros(len(part.positions), bool)
    used[part.triangles.reshape(-1)] = True
    if used.all():
        return part
    renumber = np.cumsum(used, dtype=np.uint32) - np.uint32(1)

    def rows(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[used]

    return dataclasses.replace(
        part,
        positions=part.positions[used],
        triangles=renumber[part.triangles],
        normals=rows(part.normals),
        uv=rows(part.uv),
        colours=rows(part.colours),
    )


def _areas(positions: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (positions[triangles[:, i]] for i in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=-1)


def _unit(normals: np.ndarray, positions: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Normals of length one; those that have no direction become the mean of their triangles'; float32."""
    normals = np.nan_to_num(normals.astype(np.float64), posinf=0.0, neginf=0.0)
    lengths = np.linalg.norm(normals, axis=-1)
    empty = ~((lengths > 1e-12) & (lengths < 1e12))
    if empty.any():
        a, b, c = (positions[triangles[:, i]] for i in range(3))
        crosses = np.cross(b - a, c - a)
        sums = np.zeros_like(normals)
        for i in range(3):
            np.add.at(sums, triangles[:, i], crosses)
        normals[empty] = sums[empty]
        lengths = np.linalg.norm(normals, axis=-1)
    up = np.array([0.0, 0.0, 1.0])  # where even that is nothing
    return np.where(lengths[:, None] > 0.0, normals / np.maximum(lengths, 1e-300)[:, None], up).astype(np.float32)


def _near_zero(uv: np.ndarray, part: Part) -> np.ndarray:
    """Finite coordinates; repeated pictures far from 0 are moved by whole periods, to where float32 is precise."""
    uv = np.nan_to_num(uv, posinf=0.0, neginf=0.0)
    texture = part.material.texture
    if texture is None or "clamp" in texture.wrap or np.abs(uv).max(initial=0.0) < 100.0:
        return uv
    return (uv - 2.0 * np.round(0.5 * uv.astype(np.float64).mean(0))).astype(np.float32)
