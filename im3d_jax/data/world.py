"""Where a capture lies in its world: far from the origin, float32 has no room for its details.

Poses in UTM or earth-centred coordinates are millions of metres from the origin, where float32 counts in steps of
metres. A centre is subtracted in float64 before anything becomes float32, and added again where gaussians are exported.
"""

from __future__ import annotations

import math

import numpy as np


# Distance of the cameras over their spread from which the rounding of float32 shows: at 500 it is 3e-5 of the spread,
# about a thirtieth of a pixel of a focal length of 1,000 pixels. Nearer captures keep their own origin.
FAR = 500.0


def centre_of(eyes: np.ndarray) -> np.ndarray | None:
    """The origin that a capture is to get.

    Args:
        eyes: [V, 3] positions of the cameras, float64.

    Returns:
        [3] the cameras' mean, rounded to a power of two near their spread, float64; None where their own origin is
        near, or where all are in one place.
    """
    mean = eyes.mean(axis=0)
    spread = float(np.linalg.norm(eyes - mean[None], axis=1).max())
    distance = float(np.abs(mean).max())
    # Of one place only the rounding of float64 is left.
    if spread <= 1e-12 * distance or distance <= FAR * spread:
        return None
    step = 2.0 ** math.floor(math.log2(spread))
    return np.round(mean / step) * step


def moved_poses(world_to_camera: np.ndarray, centre: np.ndarray | None) -> np.ndarray:
    """World-to-camera matrices [V, 4, 4], float64, of a world whose origin is `centre`."""
    if centre is None:
        return world_to_camera
    moved = world_to_camera.copy()
    moved[:, :3, 3] += np.einsum("vij,j->vi", world_to_camera[:, :3, :3], centre)
    return moved


def eyes_of(world_to_camera: np.ndarray) -> np.ndarray:
    """Positions [V, 3] of cameras by their world-to-camera matrices [V, 4, 4], in the dtype given."""
    return -np.einsum("vji,vj->vi", world_to_camera[:, :3, :3], world_to_camera[:, :3, 3])


def moved_points(points: np.ndarray, centre: np.ndarray | None) -> np.ndarray:
    """Points [n, 3] of the world as float32 ones of a world whose origin is `centre`."""
    return (points if centre is None else points - centre[None]).astype(np.float32)
