"""Where the cameras of turntables stand: on the orbit of the views, or around the gaussians."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from im3d_jax.exports.source import Source
from im3d_jax.output.renders import FOV_DEG, Turn, find_turn, fov_deg_of, turn_around
from splat import Cameras
from splat.io.frames import to_y_up


PATHS = ("turn", "swing", "rise")
_SWING_DEG, _RISE_DEG = 40.0, 30.0
_HIGHEST_DEG = 88.0


@dataclasses.dataclass(frozen=True, eq=False)
class Orbit:
    """Where the cameras of a turntable stand, and what they see.

    Attributes:
        turn: The circle around the object.
        fov_deg: Field of view of the shorter side of the pictures.
    """

    turn: Turn
    fov_deg: float

    def cameras(
        self, frames: int, width: int, height: int, *, path: str = "turn", elevation_deg: float | None = None
    ) -> Cameras:
        """Cameras of a video.

        Args:
            frames: Of one round of the path.
            width: Of the pictures in pixels.
            height: Of the pictures in pixels.
            path: "turn" goes once around, counter-clockwise seen from above; "swing" goes to both sides and back, by 40
                degrees; "rise" goes once around and up and down by 30 degrees.
            elevation_deg: Of the cameras; the orbit's own by default.
        """
        phase = 2.0 * np.pi * np.arange(frames) / frames
        azimuth = math.radians(_SWING_DEG) * np.sin(phase) if path == "swing" else phase
        elevation = math.degrees(self.turn.elevation) if elevation_deg is None else elevation_deg
        elevations = elevation + (_RISE_DEG * np.sin(phase) if path == "rise" else np.zeros(frames))
        elevations = np.radians(np.clip(elevations, -_HIGHEST_DEG, _HIGHEST_DEG))
        focal = 0.5 * min(width, height) / math.tan(math.radians(self.fov_deg) / 2.0)
        lens = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]], np.float32)
        poses = self.turn.poses(azimuth, elevations)
        return Cameras(poses, jnp.broadcast_to(jnp.asarray(lens)[None], (frames, 3, 3)), width, height)


def orbit_of(source: Source) -> Orbit:
    """The orbit of a run's views; for other gaussians one that sees all of them from a little above."""
    if source.views is not None and len(source.views.cameras) > 1:
        return Orbit(find_turn(source.views.cameras), fov_deg_of(source.views.cameras))
    back = to_y_up(source.up).T
    return Orbit(turn_around(source.rows, back[:, 1], back[:, 2]), FOV_DEG)
