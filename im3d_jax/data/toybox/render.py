"""Draws Toybox objects in JAX: exact ray casting, object-fixed patterns, rig-fixed light."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from im3d_jax.data.toybox import intersect
from im3d_jax.data.toybox.objects import ToyObject
from splat import Cameras


Array = jax.Array
Coordinates = tuple[Array, ...]  # x, y, z


def _towards(azimuth_deg: float, elevation_deg: float) -> tuple[float, float, float]:
    a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
    return math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)


# Frame 0 looks from azimuth 0: the key light is beside the camera, so first images are lit and have shape.
KEY_LIGHT = _towards(50.0, 45.0)
FILL_LIGHT = _towards(250.0, 5.0)
# Their sum is 1, so no albedo is ever clipped.
AMBIENT, SKY, KEY, FILL = 0.46, 0.08, 0.38, 0.08
# Inner sides of open shells get less light.
INSIDE = 0.72


def render_object(toy: ToyObject, cameras: Cameras, supersample: int = 2) -> Array:
    """Draws one object from every camera. Pure; works under `jit` and `vmap`.

    Args:
        toy: one object (no leading axes).
        cameras: V cameras outside the object.
        supersample: samples per pixel side; the pixel's coverage is known to 1/supersample².

    Returns:
        [V,H,W,4] float32: straight colour in [0, 1] (the mean over covered samples; 0 where nothing is
        covered), and coverage.
    """
    origin, direction = _rays(cameras, supersample)
    distance, normal, index = _trace(toy, origin, direction)
    rgb = _shade(toy, origin, direction, distance, normal, index)
    covered = (distance < 0.5 * intersect.MISS).astype(jnp.float32)
    views, height, width = cameras.world_to_camera.shape[0], cameras.height, cameras.width
    samples = (views, supersample * supersample, height, width)
    covered = covered.reshape(samples)
    weight = covered.sum(axis=1)
    channels = [(c.reshape(samples) * covered).sum(axis=1) / jnp.maximum(weight, 1.0) for c in rgb]
    return jnp.stack([*channels, weight / supersample**2], axis=-1)


def _rays(cameras: Cameras, supersample: int) -> tuple[Coordinates, Coordinates]:
    """World ray starts [V,1] and unnormalised directions [V, S²·H·W], sample-major."""
    offsets = (jnp.arange(supersample, dtype=jnp.float32) + 0.5) / supersample
    columns = offsets[None, :, None, None] + jnp.arange(cameras.width, dtype=jnp.float32)[None, None, None, :]
    rows = offsets[:, None, None, None] + jnp.arange(cameras.height, dtype=jnp.float32)[None, None, :, None]
    shape = (supersample, supersample, cameras.height, cameras.width)
    u = jnp.broadcast_to(columns, shape).reshape(1, -1)
    v = jnp.broadcast_to(rows, shape).reshape(1, -1)
    k, pose = cameras.intrinsics, cameras.world_to_camera
    x = (u - k[:, 0, 2][:, None]) / k[:, 0, 0][:, None]
    y = (v - k[:, 1, 2][:, None]) / k[:, 1, 1][:, None]
    # Written out: a matmul would run in TF32 on some GPUs.
    r = [[pose[:, i, j][:, None] for j in range(4)] for i in range(3)]
    direction = tuple(r[0][j] * x + r[1][j] * y + r[2][j] for j in range(3))
    origin = tuple(-(r[0][j] * r[0][3] + r[1][j] * r[1][3] + r[2][j] * r[2][3]) for j in range(3))
    return origin, direction


def _trace(toy: ToyObject, origin: Coordinates, direction: Coordinates) -> tuple[Array, Coordinates, Array]:
    """Nearest hit over all slots: distance, outward world normal (not normalised) and slot, all [V,R]."""
    blank = jnp.zeros_like(direction[0])

    def nothing(params, start, along):
        del params, start, along
        return blank + intersect.MISS, blank, blank, blank

    def body(nearest, slot):
        distance, nx, ny, nz, index = nearest
        kind, matrix, params, number = slot
        start, along = intersect.to_local(matrix, origin, direction)
        shapes = (nothing, intersect.revolution, intersect.tapered_box)
        t, x, y, z = jax.lax.switch(kind + 1, shapes, params, start, along)
        closer = t < distance
        m = [[matrix[i, j] for j in range(3)] for i in range(3)]
        normal = tuple(m[0][j] * x + m[1][j] * y + m[2][j] * z for j in range(3))
        return (
            jnp.where(closer, t, distance),
            jnp.where(closer, normal[0], nx),
            jnp.where(closer, normal[1], ny),
            jnp.where(closer, normal[2], nz),
            jnp.where(closer, number, index),
        ), None

    slots = toy.kind.shape[0]
    start = (blank + intersect.MISS, blank, blank, blank, jnp.zeros(blank.shape, jnp.int32))
    table = (toy.kind, toy.local_from_world, toy.params, jnp.arange(slots, dtype=jnp.int32))
    (distance, nx, ny, nz, index), _ = jax.lax.scan(body, start, jax.tree.map(jnp.asarray, table))
    return distance, (nx, ny, nz), index


def _shade(
    toy: ToyObject,
    origin: Coordinates,
    direction: Coordinates,
    distance: Array,
    normal: Coordinates,
    index: Array,
) -> Coordinates:
    """Pattern, then ambient + hemisphere + two directional Lambert terms; three [V,R] channels."""
    nx, ny, nz = normal
    norm = jax.lax.rsqrt(jnp.maximum(nx * nx + ny * ny + nz * nz, 1e-20))
    facing = nx * direction[0] + ny * direction[1] + nz * direction[2]
    norm = jnp.where(facing > 0.0, -norm, norm)
    nx, ny, nz = nx * norm, ny * norm, nz * norm

    rotation = jnp.asarray(toy.object_from_world)
    point = tuple(o + jnp.minimum(distance, 100.0) * d for o, d in zip(origin, direction, strict=True))
    p = tuple(rotation[i, 0] * point[0] + rotation[i, 1] * point[1] + rotation[i, 2] * point[2] for i in range(3))
    n = tuple(rotation[i, 0] * nx + rotation[i, 1] * ny + rotation[i, 2] * nz for i in range(3))
    table = jnp.concatenate(
        [jnp.asarray(toy.colour), jnp.asarray(toy.colour2), jnp.asarray(toy.pattern, jnp.float32)[:, None]],
        axis=-1,
    )
    row = table[index]
    mark = pattern_mask(row[..., 6], p, n, toy.period)

    key = jnp.maximum(nx * KEY_LIGHT[0] + ny * KEY_LIGHT[1] + nz * KEY_LIGHT[2], 0.0)
    fill = jnp.maximum(nx * FILL_LIGHT[0] + ny * FILL_LIGHT[1] + nz * FILL_LIGHT[2], 0.0)
    light = AMBIENT + SKY * (0.5 + 0.5 * nz) + KEY * key + FILL * fill
    light = jnp.where(facing > 0.0, INSIDE * light, light)
    return tuple(jnp.where(mark, row[..., 3 + i], row[..., i]) * light for i in range(3))


def pattern_mask(pattern: Array, point: Coordinates, normal: Coordinates, period: Array) -> Array:
    """Where the second colour shows: a planar pattern, projected along the object axis nearest to the normal.

    Args:
        pattern: index into `PATTERNS`, as float, any shape S.
        point: object coordinates, each S, world units.
        normal: object-frame normal, each S.
        period: lattice period, world units.

    Returns:
        S bool.
    """
    ax, ay, az = (jnp.abs(c) for c in normal)
    flat = az >= jnp.maximum(ax, ay)
    side = ax >= ay
    u = jnp.where(flat, point[0], jnp.where(side, point[1], point[0])) / period
    v = jnp.where(flat, point[1], point[2]) / period
    fu, fv = u - jnp.floor(u), v - jnp.floor(v)
    stripes = fu < 0.5
    bands = fv < 0.5
    dots = (fu - 0.5) ** 2 + (fv - 0.5) ** 2 < 0.31**2
    wave = v + jnp.abs(2.0 * fu - 1.0) * 0.6
    zigzags = wave - jnp.floor(wave) < 0.5
    number = jnp.round(pattern)
    mark = (number == 1) & stripes | (number == 2) & dots | (number == 3) & (stripes ^ bands)
    return mark | (number == 4) & bands | (number == 5) & zigzags
