"""Elevations of a turntable's cameras: one for all, one per object, or a curve over the turn."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np

from im3d_jax.errors import InputError


HIGHEST_DEG = 89.0
_KINDS = ("fixed", "per_object", "dynamic")
_WAVES = 4  # of a dynamic curve


@dataclasses.dataclass(frozen=True)
class Elevations:
    """How the elevations of an object's cameras are drawn.

    Attributes:
        kind: "fixed", "per_object" (uniform in the range) or "dynamic" (a smooth closed curve inside of the range).
        low: Degrees, -89 to 89.
        high: Degrees, `low` where the kind is "fixed".

    Raises:
        InputError: An unknown kind, or a range that is empty or beyond 89 degrees.
    """

    kind: str
    low: float
    high: float

    def __post_init__(self):
        if self.kind not in _KINDS:
            raise InputError(f"elevations of the unknown kind {self.kind!r}; expected one of {', '.join(_KINDS)}")
        if not -HIGHEST_DEG <= self.low <= self.high <= HIGHEST_DEG:
            raise InputError(f"elevations from {self.low:g} to {self.high:g}; expected rising ones within 89 degrees")

    @classmethod
    def parse(cls, text: str) -> Elevations:
        """`fixed:15`, `per_object:0:45` or `dynamic:0:45`, in degrees.

        Raises:
            InputError: It is neither.
        """
        kind, *numbers = text.split(":")
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            values = []
        if kind not in _KINDS or len(values) != (1 if kind == "fixed" else 2):
            raise InputError(f"--elevation={text}: expected fixed:15, per_object:0:45 or dynamic:0:45 (degrees)")
        return cls(kind, values[0], values[-1])

    def __str__(self) -> str:
        ends = (self.low,) if self.kind == "fixed" else (self.low, self.high)
        return ":".join([self.kind, *(f"{value:g}" for value in ends)])

    def draw(self, seed: int, key: str, views: int) -> np.ndarray:
        """Elevations of one object's cameras: the same for the same arguments, on any machine.

        Args:
            seed: Of the data set.
            key: Of the object.
            views: Cameras of the turn.

        Returns:
            [views] float64, degrees, rounded to 0.0001.
        """
        if self.kind == "fixed":
            return np.full(views, self.low)
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "little"))
        middle = rng.uniform(self.low, self.high)
        if self.kind == "per_object":
            return np.full(views, middle).round(4)
        # SV3D's dynamic orbits (arXiv 2403.12008, section 3.2): a random sum of sinusoids, closed over the turn.
        angles = np.arange(views) * (2.0 * math.pi / views)
        curve = sum(
            rng.normal() / number * np.sin(number * angles + rng.uniform(0.0, 2.0 * math.pi))
            for number in range(1, _WAVES + 1)
        )
        room = min(middle - self.low, self.high - middle)
        scale = rng.uniform(0.3, 1.0) * room / max(float(np.abs(curve).max()), 1e-9)
        return (middle + scale * np.asarray(curve)).round(4)
