"""The surface of a visual hull as points that know their normals, their spacing, and the colours of the views."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import KDTree

from im3d_jax.images.alpha import premultiply, unpremultiply
from im3d_jax.reconstruction.hull import Grid, bilinear, carve, covered, project
from im3d_jax.reconstruction.presets import HullStart
from splat import Cameras
from splat.morton import morton_order


# A hull that covers less of the median mask has lost parts of the object: too much of it, and some of it.
LEAST_COVERED, WELL_COVERED = 0.8, 0.95
FEWEST_POINTS = 16
# Cells over which normals are smoothed, and by which rays to cameras start above the surface.
SMOOTHING, CLEARANCE = 1.5, 2.0
NEIGHBOURS = 8  # of a point, for the fill of what no view sees
FILL_ROUNDS = 400
# Least weight of a point's views, in units of one that faces it: below, the point counts as unseen.
LEAST_WEIGHT = 0.05
ROBUST_ROUNDS, ROBUST_WIDTH = 4, 0.1  # of the mean colour; the width in units of colour
POINTS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """Points on the surface of a hull.

    Attributes:
        points: [N, 3] in the world.
        normals: [N, 3] outward, of length 1.
        spacing: [N] mean distance to the nearest neighbours.
        colours: [N, 3] in [0, 1].
        seen: [N] bool, whether a view sees the point; the others have the colours of their neighbours.
    """

    points: np.ndarray
    normals: np.ndarray
    spacing: np.ndarray
    colours: np.ndarray
    seen: np.ndarray


def find_surface(
    rgba: np.ndarray, cameras: Cameras, centre: np.ndarray, radius: float, start: HullStart
) -> Surface | None:
    """The surface of the views' hull; None where they have none, or where their masks contradict each other.

    Args:
        rgba: [V, H, W, 4] straight alpha.
        cameras: Of the views.
        centre: [3] of the cube that can hold the object.
        radius: Half the cube's side.
        start: Number of points, and of views that must exclude what is outside.
    """
    grid, share, against = None, 0.0, 0
    # One view that shows something else cuts the object that all others show: then more of them must exclude a point.
    while share < WELL_COVERED and against < start.against:
        against += 1
        grid = carve(rgba, cameras, centre, radius, against=against)
        share = covered(grid, rgba, cameras)
    return None if grid is None or share < LEAST_COVERED else surface_of(grid, rgba, cameras, start.count)


def surface_of(grid: Grid, rgba: np.ndarray, cameras: Cameras, count: int) -> Surface | None:
    """Points on the surface of a carved hull, with the colours that the views show there.

    Args:
        grid: From `carve`.
        rgba: [V, H, W, 4] straight alpha.
        cameras: Of the views.
        count: Most points.

    Returns:
        The surface; None where the hull has none or hardly any.
    """
    points = _crossings(grid)
    if len(points) < FEWEST_POINTS:
        return None
    if len(points) > count:
        points = points[_spread(points, count)]
    slopes = np.asarray(np.gradient(gaussian_filter(grid.values, SMOOTHING)))
    normals = _unit(-np.stack([_sample(slopes[axis], grid.places(points)) for axis in range(3)], -1))
    neighbours = np.asarray(KDTree(points).query(points, k=NEIGHBOURS + 1)[1])
    weights, colours = _views_of(points, normals, grid, rgba, cameras)
    seen = weights.sum(0) > LEAST_WEIGHT
    mean = robust_mean(colours, weights)
    if not seen.any():
        mean, seen = np.full_like(mean, 0.5), np.ones(len(points), bool)
    # A hull ends below in a cone that no view excludes: a membrane between what is seen closes the object instead.
    mean[~seen] = mean[seen].mean(0)
    filled = fill(np.concatenate([mean, points], -1), seen, neighbours[:, 1:])
    points = filled[:, 3:]
    normals[~seen] = _turned(normals[~seen], points[neighbours[~seen]])
    spacing = np.asarray(KDTree(points).query(points, k=5)[0])[:, 1:].mean(-1)
    return Surface(points, normals, spacing, filled[:, :3].clip(0.0, 1.0), seen)


def robust_mean(colours: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means [N, C] of colours [V, N, C] in which outliers count little (Geman and McClure's weights)."""
    now = weights
    for _ in range(ROBUST_ROUNDS):
        mean = (now[..., None] * colours).sum(0) / np.maximum(now.sum(0), 1e-9)[:, None]
        far = np.square((colours - mean[None]) / ROBUST_WIDTH).sum(-1)
        now = weights / np.square(1.0 + far)
    return (now[..., None] * colours).sum(0) / np.maximum(now.sum(0), 1e-9)[:, None]


def fill(values: np.ndarray, known: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Values where they are unknown: the harmonic continuation over a graph.

    Args:
        values: [N, C]; where the continuation begins in unknown rows.
        known: [N] bool, the rows that stay.
        neighbours: [N, K] indices.

    Returns:
        [N, C]; unknown rows are the means of their neighbours, or nearly so.
    """
    values, unknown = np.array(values, np.float64), np.flatnonzero(~known)
    if not len(unknown):
        return values
    around = neighbours[unknown]
    for _ in range(FILL_ROUNDS):
        values[unknown] = values[around].mean(1)
    return values


def _crossings(grid: Grid) -> np.ndarray:
    """Points [N, 3] where the values pass one half: in each cell between eight samples, the mean over its edges."""
    inside = np.pad(grid.values, 1)
    n = len(inside) - 1
    total, number = np.zeros((n, n, n, 3)), np.zeros((n, n, n))
    for axis in range(3):
        low, high = np.take(inside, range(n), axis), np.take(inside, range(1, n + 1), axis)
        found = np.nonzero((low > 0.5) != (high > 0.5))
        share = (0.5 - low[found]) / (high[found] - low[found])
        place = np.stack(found, -1).astype(np.float64)
        place[:, axis] += share
        others = [other for other in range(3) if other != axis]
        # An edge belongs to the four cells around it.
        for first in (0, -1):
            for second in (0, -1):
                cell = np.stack(found, -1)
                cell[:, others[0]] += first
                cell[:, others[1]] += second
                fits = ((cell >= 0) & (cell < n)).all(-1)
                where = tuple(cell[fits].T)
                np.add.at(total, where, place[fits])
                np.add.at(number, where, 1)
    cells = np.nonzero(number)
    return grid.world(total[cells] / number[cells][:, None] - 1.0)


def _spread(points: np.ndarray, count: int) -> np.ndarray:
    """Indices [count] of points that keep far from each other: every so-many-th along a space-filling curve."""
    order = np.asarray(morton_order(jnp.asarray(points, jnp.float32)))
    return np.sort(order[(np.arange(count) * len(points)) // count])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _turned(normals: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Normals [N, 3] of the planes through points [N, K, 3], on the side of the given ones."""
    centred = around - around.mean(1, keepdims=True)
    flat = np.linalg.eigh(np.einsum("nki,nkj->nij", centred, centred))[1][..., 0]
    side = np.where((flat * normals).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    return flat * side


def _sample(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    return map_coordinates(values, places.T, order=1, mode="nearest")


def _views_of(
    points: np.ndarray, normals: np.ndarray, grid: Grid, rgba: np.ndarray, cameras: Cameras
) -> tuple[np.ndarray, np.ndarray]:
    """How well each view shows each point [V, N], 0 to 1, and with which colour [V, N, 3]."""
    count = len(points)
    pad = ((0, -count % POINTS_AT_ONCE), (0, 0))  # few sizes are compiled
    given = [jnp.asarray(np.pad(part, pad), jnp.float32) for part in (points, normals)]
    corner = jnp.asarray(grid.centre - grid.radius, jnp.float32)
    occupied = jnp.asarray(grid.values > 0.5)
    steps = int(np.ceil(3**0.5 * len(grid.values)))
    weights, colours = _look(*given, occupied, corner, jnp.float32(grid.cell), jnp.asarray(rgba), cameras, steps)
    return np.asarray(weights)[:, :count], np.asarray(colours)[:, :count]


@partial(jax.jit, static_argnames="steps")
def _look(points, normals, occupied, corner, cell, rgba, cameras, steps):
    start = points + CLEARANCE * cell * normals

    def one(view):
        position, (image, camera) = view[0], view[1:]
        offset = position[None] - start
        direction = offset / jnp.linalg.norm(offset, axis=-1, keepdims=True)

        def march(step, free):
            place = jnp.floor((start + step * cell * direction - corner[None]) / cell).astype(jnp.int32)
            within = ((place >= 0) & (place < len(occupied))).all(-1)
            x, y, z = jnp.clip(place, 0, len(occupied) - 1).T
            return free & ~(within & occupied[x, y, z])

        free = jax.lax.fori_loop(0, steps, march, jnp.ones(len(points), bool))
        u, v, seen, _ = project(points, camera)
        shown = bilinear(image[None], u, v)[0]
        facing = jnp.maximum(jnp.sum(normals * direction, -1), 0.0)
        weight = jnp.where(free & seen[0] & (shown[:, 3] > 0.5), facing**2 * shown[:, 3], 0.0)
        return weight, unpremultiply(shown)[:, :3]

    single = jax.tree.map(lambda leaf: leaf[:, None], cameras)
    return jax.lax.map(one, (cameras.positions, premultiply(rgba), single))
