"""Points of a scene's surfaces beside a camera file: where a fit starts.

nerfstudio names a point cloud in `ply_file_path`; a COLMAP model may lie beside the camera file, in its own world. The
camera files of nerfstudio and instant-ngp turn, scale and shift that world, recorded or not: the similarity of both
is told by the cameras that they share.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from im3d_jax.data import colmap
from im3d_jax.data.camera_files import camera_to_world
from im3d_jax.data.lens import LARGEST
from im3d_jax.data.world import eyes_of
from splat.io.files import Malformed
from splat.io.ply import ply_vertices, point_colors


# Points in the camera file's own world, and colours in [0, 1].
Points = tuple[np.ndarray, np.ndarray | None]
FEWEST = 4
# Cameras of a model and of a camera file are the same where they differ by less than this share of their spread.
_SAME = 1e-2


def read_points(fields: dict[str, Any], path: pathlib.Path) -> tuple[Points | None, str]:
    """The points of a camera file's scene.

    Args:
        fields: From `read_fields`.
        path: Of the file.

    Returns:
        Points [n, 3] float64 and colours [n, 3] float32, or None; and a line for the user, which may be empty.
    """
    named = fields.get("ply_file_path")
    if isinstance(named, str) and named:
        points, problem = _point_cloud(path.parent / named.replace("\\", "/"))
        return points, f"{path.name}: ply_file_path {named[:200]!r} is not used ({problem})" if problem else ""
    if named:
        return None, f"{path.name}: ply_file_path is not used ({repr(named)[:40]} is no text)"
    model = colmap.find_model(path.parent)
    if model is None:
        return None, ""
    try:
        found = colmap.read_model(model)
    except colmap.ColmapError as error:
        return None, f"the points beside {path.name} are not used: {error}"
    if len(found.points) < FEWEST:
        return None, ""
    eyes = camera_to_world(fields, path)[:, :3, 3]
    pairs = _same_pictures([frame["file_path"] for frame in fields["frames"]], found.names)
    theirs = eyes_of(found.world_to_camera)[[number for _, number in pairs]]
    moved = _similarity(theirs, eyes[[number for number, _ in pairs]])
    if moved is None:
        return None, f"{model}: its cameras are not those of {path.name}, so its points are not used"
    scale, rotation, shift = moved
    return (scale * found.points @ rotation.T + shift[None], found.colours), ""


def _point_cloud(file: pathlib.Path) -> tuple[Points | None, str]:
    """Points of a PLY file, or what is wrong with it."""
    # Neither a folder nor a device, which may have no end; nor a name that no file can have.
    if not os.path.isfile(file):
        return None, "no such file"
    try:
        columns = ply_vertices(file.read_bytes())
    except OSError as error:
        return None, error.strerror or "cannot be read"
    except Malformed as problem:
        return None, str(problem)
    if not all(name in columns for name in "xyz"):
        return None, "it has no x, y, z"
    points = np.stack([columns[name].astype(np.float64) for name in "xyz"], axis=-1)
    # NaN compares false.
    sound = (np.abs(points) <= LARGEST).all(axis=1)
    colours = None
    if all(name in columns for name in ("red", "green", "blue")):
        values = np.stack([columns[name].astype(np.float64) for name in ("red", "green", "blue")], axis=-1)[sound]
        values = np.nan_to_num(values, nan=0.5, posinf=0.5, neginf=0.5)
        colours = point_colors(values, columns["red"].dtype).clip(0.0, 1.0).astype(np.float32)
    if sound.sum() < FEWEST:
        return None, f"it has {sound.sum()} points"
    return (points[sound], colours), ""


def _same_pictures(names: Sequence[str], others: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of numbers of the pictures in both lists, by the last part of their names without a suffix."""

    def key(name: str) -> str:
        last = name.replace("\\", "/").rpartition("/")[2]
        return (last.rpartition(".")[0] or last).lower()

    places = {key(name): place for place, name in enumerate(others)}
    return [(place, places[key(name)]) for place, name in enumerate(names) if key(name) in places]


def _similarity(points: np.ndarray, images: np.ndarray) -> tuple[float, np.ndarray, np.ndarray] | None:
    """Scale, rotation [3, 3] and shift [3] that take points [n, 3] to their images in the least-squares sense.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991. None where fewer
    than four points or points on a line leave it open, or where the images are others.
    """
    if len(points) < FEWEST:
        return None
    from_mean, to_mean = points.mean(axis=0), images.mean(axis=0)
    before, after = points - from_mean[None], images - to_mean[None]
    left, singular, right = np.linalg.svd(after.T @ before)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    spread = float((before**2).sum())
    if spread <= 0.0 or singular[1] <= 1e-9 * singular[0]:
        return None
    rotation = (left * signs[None]) @ right
    scale = float((singular * signs).sum() / spread)
    shift = to_mean - scale * rotation @ from_mean
    error = np.abs(scale * points @ rotation.T + shift[None] - images).max()
    if not (scale > 0.0 and error <= _SAME * np.linalg.norm(after, axis=1).max()):
        return None
    return scale, rotation, shift
