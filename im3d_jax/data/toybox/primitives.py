"""Typed primitives and their exact bounds, in plain Python and numpy (no JAX: thousands of objects a second).

A primitive is a unit shape under an affine map `world = linear @ local + offset`. Two shapes cover all parts:

`REVOLUTION`: x² + y² + c2·z² + c1·z + c0 = 0 cut to low <= z <= high, each cut open or closed by a disc. The
unit sphere is (1, 0, −1); a frustum with radius m + k·z is (−k², −2mk, −m²).
`BOX`: |x| <= 1 − tx·(z+1)/2, |y| <= 1 − ty·(z+1)/2, |z| <= 1. A taper of 1 in x gives a roof, in both a
pyramid.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from im3d_jax.data.toybox.palette import Colour


SLOTS = 24
INACTIVE, REVOLUTION, BOX = -1, 0, 1

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]


class Paint(enum.Enum):
    """Paint that depends on the caption: its colour with the pattern, without it, or a darker shade."""

    MAIN = "main"
    TRIM = "trim"
    SHADE = "shade"


MAIN, TRIM, SHADE = Paint.MAIN, Paint.TRIM, Paint.SHADE


class Primitive(NamedTuple):
    """One part.

    Attributes:
        kind: `REVOLUTION` or `BOX`.
        linear: 3×3 world-from-local matrix (rows).
        offset: position of the local origin.
        params: REVOLUTION: (c2, c1, c0, low, high, closed_low, closed_high); BOX: (tx, ty, 0, 0, 0, 0, 0).
        paint: a fixed albedo, or a `Paint`.
    """

    kind: int
    linear: Matrix
    offset: Vector
    params: tuple[float, ...]
    paint: Paint | Colour


def rotation(turn: Vector) -> Matrix:
    """Rz(turn[2]) · Ry(turn[1]) · Rx(turn[0]); angles in degrees, right-handed."""
    (sx, cx), (sy, cy), (sz, cz) = ((math.sin(math.radians(a)), math.cos(math.radians(a))) for a in turn)
    return (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )


_UPRIGHT: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def _scaled(turn: Vector | None, scale: Vector) -> Matrix:
    rows = _UPRIGHT if turn is None else rotation(turn)
    a, b, c = ((row[0] * scale[0], row[1] * scale[1], row[2] * scale[2]) for row in rows)
    return a, b, c


def ellipsoid(
    centre: Vector,
    radii: float | Vector,
    paint: Paint | Colour = MAIN,
    *,
    turn: Vector | None = None,
    low: float = -1.0,
    high: float = 1.0,
    closed: bool = False,
) -> Primitive:
    """An ellipsoid, or its part with low <= z <= high in units of its third axis, open or closed."""
    scale = (radii, radii, radii) if isinstance(radii, float | int) else radii
    cap = float(closed)
    params = (1.0, 0.0, -1.0, low, high, cap, cap)
    return Primitive(REVOLUTION, _scaled(turn, scale), centre, params, paint)


def _frustum_params(bottom: float, top: float, closed: tuple[bool, bool]) -> tuple[float, ...]:
    mean, slope = 0.5 * (bottom + top), 0.5 * (top - bottom)
    return (-slope * slope, -2.0 * mean * slope, -mean * mean, -1.0, 1.0, float(closed[0]), float(closed[1]))


def frustum(
    centre: Vector,
    bottom: float,
    top: float,
    half_height: float,
    paint: Paint | Colour = MAIN,
    *,
    squash: tuple[float, float] = (1.0, 1.0),
    turn: Vector | None = None,
    closed: tuple[bool, bool] = (True, True),
) -> Primitive:
    """A cylinder or (truncated) cone along local z; `squash` scales x and y; open ends show the inside."""
    widest = max(bottom, top)
    params = _frustum_params(bottom / widest, top / widest, closed)
    scale = (widest * squash[0], widest * squash[1], half_height)
    return Primitive(REVOLUTION, _scaled(turn, scale), centre, params, paint)


def rod(
    start: Vector,
    end: Vector,
    start_radius: float,
    end_radius: float | None = None,
    paint: Paint | Colour = MAIN,
    *,
    closed: tuple[bool, bool] = (True, True),
) -> Primitive:
    """A cylinder or cone from `start` to `end`."""
    end_radius = start_radius if end_radius is None else end_radius
    dx, dy, dz = end[0] - start[0], end[1] - start[1], end[2] - start[2]
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    z = (dx / length, dy / length, dz / length)
    helper = (0.0, 0.0, 1.0) if abs(z[2]) < 0.9 else (1.0, 0.0, 0.0)
    x = _cross(helper, z)
    norm = math.sqrt(x[0] ** 2 + x[1] ** 2 + x[2] ** 2)
    x = (x[0] / norm, x[1] / norm, x[2] / norm)
    y = _cross(z, x)
    widest, half = max(start_radius, end_radius), 0.5 * length
    a, b, c = ((x[i] * widest, y[i] * widest, z[i] * half) for i in range(3))
    centre = (0.5 * (start[0] + end[0]), 0.5 * (start[1] + end[1]), 0.5 * (start[2] + end[2]))
    params = _frustum_params(start_radius / widest, end_radius / widest, closed)
    return Primitive(REVOLUTION, (a, b, c), centre, params, paint)


def path(points: Sequence[Vector], radius: float, paint: Paint | Colour = MAIN) -> list[Primitive]:
    """Rods along a polyline: handles, hoses, arms."""
    return [rod(a, b, radius, radius, paint) for a, b in zip(points[:-1], points[1:], strict=True)]


def arc(
    centre: Vector,
    radii: tuple[float, float],
    degrees: tuple[float, float],
    count: int,
    radius: float,
    paint: Paint | Colour = MAIN,
    plane: str = "xz",
) -> list[Primitive]:
    """`count` rods along an elliptic arc in plane "xz", "yz" or "xy" about `centre`; 0° is the first axis."""
    points = []
    for step in range(count + 1):
        angle = math.radians(degrees[0] + (degrees[1] - degrees[0]) * step / count)
        u, v = radii[0] * math.cos(angle), radii[1] * math.sin(angle)
        shift = {"xz": (u, 0.0, v), "yz": (0.0, u, v), "xy": (u, v, 0.0)}[plane]
        points.append((centre[0] + shift[0], centre[1] + shift[1], centre[2] + shift[2]))
    return path(points, radius, paint)


def box(
    centre: Vector,
    half: Vector,
    paint: Paint | Colour = MAIN,
    *,
    turn: Vector | None = None,
    taper: tuple[float, float] = (0.0, 0.0),
) -> Primitive:
    """A box with half sizes `half`; `taper` shrinks the top in x and y (1: a ridge; both 1: a point)."""
    return Primitive(BOX, _scaled(turn, half), centre, (taper[0], taper[1], 0.0, 0.0, 0.0, 0.0, 0.0), paint)


def _cross(a: Vector, b: Vector) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


class Parts(NamedTuple):
    """Primitives as arrays: kind[n], linear[n,3,3], offset[n,3], params[n,7]."""

    kind: np.ndarray
    linear: np.ndarray
    offset: np.ndarray
    params: np.ndarray


def as_arrays(primitives: Iterable[Primitive]) -> Parts:
    """Stacks primitives in float64."""
    kind, linear, offset, params, _ = zip(*primitives, strict=True)
    return Parts(np.array(kind), np.array(linear), np.array(offset), np.array(params))


def support(parts: Parts, directions: np.ndarray) -> np.ndarray:
    """Exact support function of the union: max over the points p of all parts of direction·p.

    Args:
        parts: n primitives.
        directions: [m,3] unit vectors.

    Returns:
        [m] largest projections.
    """
    local = np.einsum("nij,mi->nmj", parts.linear, directions)
    x, y, z = np.abs(local[..., 0]), np.abs(local[..., 1]), local[..., 2]
    c2, c1, c0, low, high = (parts.params[:, None, i] for i in range(5))
    across = np.hypot(x, y)
    length = np.sqrt(across * across + z * z)
    # Sphere: the touching point's height, clamped to the slab. Frustum: one of the two rims.
    height = np.clip(z / np.maximum(length, 1e-12), low, high)
    sphere = height * z + np.sqrt(np.maximum(1.0 - height * height, 0.0)) * across

    def rim(level: np.ndarray) -> np.ndarray:
        radius = np.sqrt(np.maximum(-(c2 * level * level + c1 * level + c0), 0.0))
        return level * z + radius * across

    revolution = np.where(c2 > 0.5, sphere, np.maximum(rim(low), rim(high)))
    tapered = np.maximum(x + y - z, (1.0 - c2) * x + (1.0 - c1) * y + z)
    reach = np.where(parts.kind[:, None] == BOX, tapered, revolution) + parts.offset @ directions.T
    return reach.max(axis=0)


def _fibonacci_sphere(count: int) -> np.ndarray:
    index = np.arange(count) + 0.5
    z = 1.0 - 2.0 * index / count
    angle = math.pi * (1.0 + math.sqrt(5.0)) * index
    ring = np.sqrt(1.0 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=-1)


_AXES = np.concatenate([np.eye(3), -np.eye(3)])
_DIRECTIONS = _fibonacci_sphere(128)
# The farthest point lies at most this angle (radians) from a sampled direction; dividing by its cosine makes
# the sampled maximum an upper bound.
_GAP = 0.21


def bounding_box(parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Exact axis-aligned box: (lowest[3], highest[3])."""
    reach = support(parts, _AXES)
    return -reach[3:], reach[:3]


def bounding_radius(parts: Parts, centre: np.ndarray) -> float:
    """An upper bound, at most 2.3 % too large, of the distance from `centre` to any point of the parts."""
    reach = support(parts, _DIRECTIONS) - _DIRECTIONS @ centre
    return float(reach.max() / math.cos(_GAP))
