"""The turntable's cameras and light as plain numbers; the same as `splat.orbit_cameras` and Toybox, without JAX."""

from __future__ import annotations

import math

import numpy as np


FOV_DEG, DISTANCE = 33.8, 3.44
_NEAR, _FAR = 1.0, 6.0  # the object is within 1 of the origin


def _towards(azimuth_deg: float, elevation_deg: float) -> tuple[float, float, float]:
    a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
    return math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)


KEY_LIGHT, FILL_LIGHT = _towards(50.0, 45.0), _towards(250.0, 5.0)
# Brighter than Toybox, whose directions these are; no normal gets more than 1, so no albedo is clipped.
AMBIENT, SKY, KEY, FILL = 0.56, 0.10, 0.35, 0.09


def orbit_azimuths(views: int) -> np.ndarray:
    """Azimuths of a turn, counter-clockwise seen from above; frame 0 at 0. [views] float64, radians."""
    return np.arange(views) * (2.0 * math.pi / views)


def eye(azimuth: float, elevation: float) -> np.ndarray:
    """Where a camera stands, [3] float64; radians."""
    flat = math.cos(elevation)
    return DISTANCE * np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])


def world_to_clip(azimuth: float, elevation: float) -> np.ndarray:
    """OpenGL's clip coordinates of a camera that looks at the origin with +z up, [4, 4] float64 for column vectors.

    Clip y points down, so that the first row that OpenGL reads back is the picture's first.
    """
    position = eye(azimuth, elevation)
    forward = -position / DISTANCE
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    rotation = np.stack([right, np.cross(forward, right), forward])
    view = np.eye(4)
    view[:3, :3], view[:3, 3] = rotation, -rotation @ position
    focal = 1.0 / math.tan(math.radians(0.5 * FOV_DEG))
    span = _FAR - _NEAR
    projection = np.array(
        [
            [focal, 0.0, 0.0, 0.0],
            [0.0, focal, 0.0, 0.0],
            [0.0, 0.0, (_FAR + _NEAR) / span, -2.0 * _FAR * _NEAR / span],
            [0.0, 0.0, 1.0, 0.0],
        ]
    )
    return projection @ view
