"""What decides the pictures of a data set of turntables."""

from __future__ import annotations

import dataclasses
from typing import Any

from im3d_jax.data.meshes import rig
from im3d_jax.data.meshes.elevations import Elevations
from im3d_jax.data.meshes.placing import RADIUS
from im3d_jax.data.turntable_folder import FORMAT
from im3d_jax.errors import InputError


MOST_VIEWS, MOST_PIXELS = 84, 1024
LOOK = 1  # counts up when light, placing or sampling change


@dataclasses.dataclass(frozen=True)
class RenderSettings:
    """Settings of a data set.

    Attributes:
        views: Frames of a turntable, 1 to 84.
        size: Side of a picture, 16 to 1024 pixels.
        elevations: How they are drawn.
        seed: Decides elevations and yaws, together with each object's id.
        up: "y", "z" or "auto", for files whose format does not say it.
        yaw: "front" (frame 0 sees the front) or "per_object" (any side, by the seed).

    Raises:
        InputError: A value out of range.
    """

    views: int = 16
    size: int = 256
    elevations: Elevations = Elevations("fixed", 15.0, 15.0)
    seed: int = 0
    up: str = "auto"
    yaw: str = "front"

    def __post_init__(self):
        if not 1 <= self.views <= MOST_VIEWS:
            raise InputError(f"{self.views} views; expected 1 to {MOST_VIEWS}")
        if not 16 <= self.size <= MOST_PIXELS:
            raise InputError(f"pictures of {self.size} pixels; expected 16 to {MOST_PIXELS}")
        if self.up not in ("auto", "y", "z") or self.yaw not in ("front", "per_object"):
            raise InputError(f"up {self.up!r}, yaw {self.yaw!r}; expected auto, y or z, and front or per_object")

    def record(self) -> dict[str, Any]:
        """What `settings.json` holds; equal records make equal pictures."""
        return {
            "format": FORMAT,
            "look": LOOK,
            "views": self.views,
            "size": self.size,
            "elevation": str(self.elevations),
            "seed": self.seed,
            "up": self.up,
            "yaw": self.yaw,
            "fov_deg": rig.FOV_DEG,
            "distance": rig.DISTANCE,
            "radius": RADIUS,
        }
