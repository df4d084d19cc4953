"""Exact ray intersections with the unit shapes of `primitives`, elementwise over rays.

Rays come as separate coordinate arrays (x, y, z) so that everything fuses into one elementwise kernel. Each
function returns (distance, x, y, z): the ray parameter of the nearest hit in front of the start, `MISS` where
there is none, and the outward local normal there, not normalised.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


Array = jax.Array
Coordinates = tuple[Array, ...]  # x, y, z
Hit = tuple[Array, Array, Array, Array]

MISS = 1e6
# Slack of the slab cut, in local units, so that no ray slips between a side and its cap.
_SLACK = 1e-5
_TINY = 1e-12


def to_local(matrix: Array, origin: Coordinates, direction: Coordinates) -> tuple[Coordinates, Coordinates]:
    """Applies an affine [3,4] map to rays; the ray parameter is unchanged."""
    m = [[matrix[i, j] for j in range(4)] for i in range(3)]
    ox, oy, oz = origin
    dx, dy, dz = direction
    start = tuple(m[i][0] * ox + m[i][1] * oy + m[i][2] * oz + m[i][3] for i in range(3))
    along = tuple(m[i][0] * dx + m[i][1] * dy + m[i][2] * dz for i in range(3))
    return start, along


def revolution(params: Array, origin: Coordinates, direction: Coordinates) -> Hit:
    """Quadric of revolution x² + y² + c2·z² + c1·z + c0 = 0 cut to a slab in z.

    Args:
        params: [7] (c2, c1, c0, low, high, closed_low, closed_high).
        origin: local ray starts.
        direction: local ray directions, any length but zero.

    Returns:
        Nearest hit; where an end is open, rays pass through it and may hit the inside.
    """
    c2, c1, c0, low, high, closed_low, closed_high = (params[i] for i in range(7))
    dx, dy, dz = direction
    # The quadratic is solved from the ray's closest point to the local origin: from the camera, tens of local
    # units away, b² − ac loses all its digits in float32.
    nearest = -(origin[0] * dx + origin[1] * dy + origin[2] * dz) / (dx * dx + dy * dy + dz * dz)
    ox, oy, oz = origin[0] + nearest * dx, origin[1] + nearest * dy, origin[2] + nearest * dz

    a = dx * dx + dy * dy + c2 * dz * dz
    b = ox * dx + oy * dy + (c2 * oz + 0.5 * c1) * dz
    c = ox * ox + oy * oy + (c2 * oz + c1) * oz + c0
    discriminant = b * b - a * c
    root = jnp.sqrt(jnp.maximum(discriminant, 0.0))
    q = -(b + jnp.where(b >= 0.0, root, -root))
    # Stable pair q/a, c/q; a vanishing denominator means that this root lies at infinity.
    first = jnp.where(jnp.abs(a) < _TINY, MISS, q / jnp.where(a == 0.0, 1.0, a))
    second = jnp.where(jnp.abs(q) < _TINY, MISS, c / jnp.where(q == 0.0, 1.0, q))

    best = jnp.full_like(root, MISS)
    for t in (first, second):
        z = oz + t * dz
        hit = (discriminant >= 0.0) & (z >= low - _SLACK) & (z <= high + _SLACK)
        hit = hit & (t + nearest > 0.0) & (t < best)
        best = jnp.where(hit, t, best)
    missed = best >= MISS
    x, y, z = ox + best * dx, oy + best * dy, c2 * (oz + best * dz) + 0.5 * c1

    inverse = 1.0 / jnp.where(jnp.abs(dz) < _TINY, _TINY, dz)
    for level, closed, side in ((low, closed_low, -1.0), (high, closed_high, 1.0)):
        t = (level - oz) * inverse
        u, v = ox + t * dx, oy + t * dy
        inside = u * u + v * v + (c2 * level + c1) * level + c0 <= _SLACK
        hit = (closed > 0.5) & inside & (t + nearest > 0.0) & (missed | (t < best))
        best = jnp.where(hit, t, best)
        missed = missed & ~hit
        x, y, z = jnp.where(hit, 0.0, x), jnp.where(hit, 0.0, y), jnp.where(hit, side, z)
    return jnp.where(missed, MISS, best + nearest), x, y, z


def tapered_box(params: Array, origin: Coordinates, direction: Coordinates) -> Hit:
    """|x| <= 1 − tx·(z+1)/2, |y| <= 1 − ty·(z+1)/2, |z| <= 1.

    Args:
        params: [7] (tx, ty, then unused).
        origin: local ray starts, outside the box.
        direction: local ray directions, any length but zero.

    Returns:
        Nearest hit.
    """
    tx, ty = 0.5 * params[0], 0.5 * params[1]
    ox, oy, oz = origin
    dx, dy, dz = direction
    one, zero = jnp.ones_like(tx), jnp.zeros_like(tx)
    faces = (
        (one, zero, tx, 1.0 - tx),
        (-one, zero, tx, 1.0 - tx),
        (zero, one, ty, 1.0 - ty),
        (zero, -one, ty, 1.0 - ty),
        (zero, zero, one, one),
        (zero, zero, -one, one),
    )
    enter, leave = jnp.full_like(ox + dx, -MISS), jnp.full_like(ox + dx, MISS)
    x = y = z = jnp.zeros_like(enter)
    for nx, ny, nz, bound in faces:
        ahead = nx * dx + ny * dy + nz * dz
        height = nx * ox + ny * oy + nz * oz - bound
        # A parallel ray outside the face counts as leaving at −infinity: a miss.
        t = -height / jnp.where(jnp.abs(ahead) < _TINY, _TINY, ahead)
        entering = (ahead < -_TINY) & (t > enter)
        enter = jnp.where(entering, t, enter)
        leave = jnp.where(ahead < -_TINY, leave, jnp.minimum(leave, t))
        x, y, z = jnp.where(entering, nx, x), jnp.where(entering, ny, y), jnp.where(entering, nz, z)
    hit = (enter < leave) & (enter > 0.0)
    return jnp.where(hit, enter, MISS), x, y, z
