"""Toybox as a `TurntableSet`: drawn when asked for."""

from __future__ import annotations

import functools
import math

import jax
import numpy as np

from im3d_jax.data.toybox.dataset import Toybox
from im3d_jax.data.toybox.objects import ToyObject
from im3d_jax.data.toybox.render import render_object
from im3d_jax.data.turntable import Turntable
from splat import orbit_cameras


class ToyboxTurntables:
    """Turntables of Toybox.

    Args:
        split: "train" or "test".
        size: Side of the pictures, pixels.
        frames: Frames of each.
        supersample: Samples per pixel side.
        objects: Only the first ones of the split; None takes all.

    Raises:
        ValueError: An unknown split, or more objects than it has.
    """

    def __init__(
        self, split: str, *, size: int = 256, frames: int = 16, supersample: int = 2, objects: int | None = None
    ):
        self._toybox = Toybox(split)
        self._length = len(self._toybox) if objects is None else objects
        if self._length > len(self._toybox):
            raise ValueError(f"split {split!r} has {len(self._toybox)} objects, not {objects}")
        self.size, self.frames = size, frames
        self._draw = jax.jit(functools.partial(_draw, size=size, frames=frames, supersample=supersample))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Turntable:
        if not 0 <= index < self._length:
            raise IndexError(f"object {index} of {self._length}")
        caption, toy = self._toybox.item(index)
        return Turntable(
            rgba=np.asarray(self._draw(toy)),
            caption=caption,
            elevations=np.full(self.frames, toy.elevation, np.float32),
            azimuths=(np.arange(self.frames) * (2.0 * math.pi / self.frames)).astype(np.float32),
            key=f"{self._toybox.split}-{index}",
        )


def _draw(toy: ToyObject, *, size: int, frames: int, supersample: int) -> jax.Array:
    cameras = orbit_cameras(toy.elevation, views=frames, width=size, height=size)
    rgba = render_object(toy, cameras, supersample)
    return jax.numpy.clip(jax.numpy.round(rgba * 255.0), 0, 255).astype(jax.numpy.uint8)
