"""Where the cameras of turntables stand: on the orbit of the views, or around the gaussians."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from im3d_jax.exports.source import Source
from im3d_jax.output.renders import find_turn
from im3d_jax.viewer import ELEVATION_DEG, FOV_DEG, bounds, distance_of
from splat import Cameras, look_at
from splat.io.frames import to_y_up


PATHS = ("turn", "swing", "rise")
_SWING_DEG, _RISE_DEG = 40.0, 30.0
_HIGHEST_DEG = 88.0


@dataclasses.dataclass(frozen=True, eq=False)
class Orbit:
    """A circle around an object.

    Attributes:
        centre: [3] what the cameras look at.
        up: [3] axis of the circle, of length one.
        ahead: [3] level direction from the centre to the first camera, of length one.
        distance: Of the cameras from the centre.
        elevation_deg: Of the cameras.
        fov_deg: Field of view of the shorter side of the pictures.
    """

    centre: np.ndarray
    up: np.ndarray
    ahead: np.ndarray
    distance: float
    elevation_deg: float
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
        elevation = self.elevation_deg if elevation_deg is None else elevation_deg
        elevations = elevation + (_RISE_DEG * np.sin(phase) if path == "rise" else np.zeros(frames))
        elevations = np.radians(np.clip(elevations, -_HIGHEST_DEG, _HIGHEST_DEG))[:, None]
        left = np.cross(self.up, self.ahead)
        level = np.cos(azimuth)[:, None] * self.ahead[None] + np.sin(azimuth)[:, None] * left[None]
        outward = np.cos(elevations) * level + np.sin(elevations) * self.up[None]
        eyes = jnp.asarray(self.centre[None] + self.distance * outward, jnp.float32)
        centres = jnp.broadcast_to(jnp.asarray(self.centre, jnp.float32)[None], eyes.shape)
        focal = 0.5 * min(width, height) / math.tan(math.radians(self.fov_deg) / 2.0)
        lens = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]], np.float32)
        poses = look_at(eyes, centres, jnp.asarray(self.up, jnp.float32))
        return Cameras(poses, jnp.broadcast_to(jnp.asarray(lens)[None], (frames, 3, 3)), width, height)


def orbit_of(source: Source) -> Orbit:
    """The orbit of a run's views; for other gaussians one that sees all of them from a little above."""
    if source.views is not None and len(source.views.cameras) > 1:
        cameras = source.views.cameras
        turn, lens = find_turn(cameras), np.asarray(cameras.intrinsics[0], np.float64)
        shorter = min(cameras.width / lens[0, 0], cameras.height / lens[1, 1])
        fov = 2.0 * math.degrees(math.atan(0.5 * shorter))
        return Orbit(turn.centre, turn.up, turn.ahead, turn.distance, math.degrees(turn.elevation), fov)
    centre, radius = bounds(source.rows)
    back = to_y_up(source.up).T
    return Orbit(centre, back[:, 1], back[:, 2], distance_of(radius), ELEVATION_DEG, FOV_DEG)
