"""A Toybox object as arrays, and its assembly from primitives on the host."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import struct

from im3d_jax.data.toybox import primitives as prim
from im3d_jax.data.toybox.palette import COLOURS, PATTERNS, Colour
from im3d_jax.data.toybox.primitives import SLOTS, Paint, Primitive


# Radius of the bounding sphere of a "large" object: the rig's image just holds radius 1.
LARGEST_RADIUS = 0.95
# Pattern period in world units: about 17 pixels at 128² (61 pixels a unit), 4 latent pixels at f = 4.
PERIOD = 0.28


@struct.dataclass
class ToyObject:
    """One object (or, with leading axes, several): what the evaluator draws. Leaves are numpy or JAX arrays.

    Attributes:
        kind: [24] int32, `INACTIVE`, `REVOLUTION` or `BOX`.
        local_from_world: [24,3,4] affine maps into the unit shapes' coordinates.
        params: [24,7] shape numbers (see `primitives`).
        colour: [24,3] albedo.
        colour2: [24,3] albedo of the pattern.
        pattern: [24] int32, index into `PATTERNS`.
        object_from_world: [3,3] rotation into the frame that carries the pattern lattice (undoes the yaw).
        period: scalar, pattern period in world units.
        elevation: scalar, radians, the orbit's elevation.
    """

    kind: jax.Array
    local_from_world: jax.Array
    params: jax.Array
    colour: jax.Array
    colour2: jax.Array
    pattern: jax.Array
    object_from_world: jax.Array
    period: jax.Array
    elevation: jax.Array


def stack(objects: Sequence[ToyObject]) -> ToyObject:
    """Stacks objects along a new leading axis, for `jax.vmap` and `jax.lax.map`."""
    if not objects:
        raise ValueError("stack() got no objects; expected at least one ToyObject")
    leaves: dict[str, Any] = {name: np.stack([getattr(item, name) for item in objects]) for name in _FIELDS}
    return ToyObject(**leaves)


_FIELDS = tuple(field.name for field in dataclasses.fields(ToyObject))


class Coat:
    """The three caption-dependent paints of one part of a scene.

    Args:
        colour: a name in `COLOURS`.
        pattern: a name in `PATTERNS`.
        pattern_colour: a name in `COLOURS`; unused for "plain".
    """

    def __init__(self, colour: str, pattern: str = "plain", pattern_colour: str | None = None):
        main = COLOURS[colour]
        second = main if pattern_colour is None else COLOURS[pattern_colour]
        shade: Colour = (0.62 * main[0], 0.62 * main[1], 0.62 * main[2])
        self.looks = {
            Paint.MAIN: (main, second, PATTERNS.index(pattern)),
            Paint.TRIM: (main, main, 0),
            Paint.SHADE: (shade, shade, 0),
        }

    def look(self, paint: Paint | Colour) -> tuple[Colour, Colour, int]:
        """(albedo, pattern albedo, pattern number) of a primitive with this paint."""
        return self.looks[paint] if isinstance(paint, Paint) else (paint, paint, 0)


def assemble(
    groups: Sequence[tuple[Sequence[Primitive], Coat, np.ndarray, float]],
    *,
    radius: float,
    yaw: float,
    elevation: float,
) -> ToyObject:
    """Places groups of primitives, centres and scales the whole, and turns it about z.

    Args:
        groups: (primitives, paint, translation[3], scale) of each part of the scene, in any common unit.
        radius: radius of the bounding sphere about the origin after scaling.
        yaw: radians, counter-clockwise seen from +z.
        elevation: radians, stored with the object.

    Returns:
        The object, float32 and int32 numpy leaves.

    Raises:
        ValueError: more than 24 primitives.
    """
    members = [item for items, _, _, _ in groups for item in items]
    count = len(members)
    if count > SLOTS:
        raise ValueError(f"an object has {count} primitives; at most {SLOTS} fit: use fewer or simpler parts")
    parts = prim.as_arrays(members)
    grow = np.concatenate([np.full(len(items), scale) for items, _, _, scale in groups])
    shift = np.concatenate([np.broadcast_to(move, (len(items), 3)) for items, _, move, _ in groups])
    parts = parts._replace(linear=parts.linear * grow[:, None, None], offset=parts.offset * grow[:, None] + shift)
    lowest, highest = prim.bounding_box(parts)
    centre = 0.5 * (lowest + highest)
    scale = radius / prim.bounding_radius(parts, centre)

    turn = np.array(prim.rotation((0.0, 0.0, math.degrees(yaw))))
    world_from_local = scale * (turn @ parts.linear)
    position = scale * (parts.offset - centre) @ turn.T
    inverse = np.linalg.inv(world_from_local)

    kind = np.full(SLOTS, prim.INACTIVE, np.int32)
    maps = np.zeros((SLOTS, 3, 4), np.float32)
    maps[:, :, :3] = np.eye(3)
    params = np.zeros((SLOTS, 7), np.float32)
    colour = np.zeros((SLOTS, 3), np.float32)
    colour2 = np.zeros((SLOTS, 3), np.float32)
    pattern = np.zeros(SLOTS, np.int32)
    kind[:count] = parts.kind
    maps[:count, :, :3] = inverse
    maps[:count, :, 3] = -np.einsum("nij,nj->ni", inverse, position)
    params[:count] = parts.params
    looks = [coat.look(item.paint) for items, coat, _, _ in groups for item in items]
    colour[:count], colour2[:count], pattern[:count] = zip(*looks, strict=True)
    leaves: dict[str, Any] = {
        "kind": kind,
        "local_from_world": maps,
        "params": params,
        "colour": colour,
        "colour2": colour2,
        "pattern": pattern,
        "object_from_world": turn.T.astype(np.float32),
        "period": np.float32(PERIOD),
        "elevation": np.float32(elevation),
    }
    return ToyObject(**leaves)
