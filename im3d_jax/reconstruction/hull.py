"""The visual hull of views with alpha: everything that no view's mask excludes.

Laurentini, "The visual hull concept for silhouette-based image understanding" (1994). The hull is carved on a coarse
grid with widened and narrowed masks, which bound what a cell can hold, and on a fine grid inside the cells that its
surface may cross.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from splat import Cameras
from splat.lenses import image_points


# Fine cells are 4/3 pixels of a view wide, and each coarse one holds 3 x 3 x 3 of them.
FINER = 3
FEWEST_COARSE, MOST_COARSE = 6, 40  # along each axis
POINTS_AT_ONCE = 1 << 14
# A mask with less than this share of the masks' median area has failed: no object is that thin from one side only.
FAILED_AREA = 0.25


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """Samples at the centres of n x n x n cells of a cube.

    Attributes:
        centre: [3] of the cube.
        radius: Half its side.
        values: [n, n, n], from 0 (outside) to 1 (inside).
    """

    centre: np.ndarray
    radius: float
    values: np.ndarray

    @property
    def cell(self) -> float:
        """Side of a cell."""
        return 2.0 * self.radius / len(self.values)

    def places(self, points: np.ndarray) -> np.ndarray:
        """Indices [..., 3] of world positions, as real numbers."""
        return (points - self.centre + self.radius) / self.cell - 0.5

    def world(self, indices: np.ndarray) -> np.ndarray:
        """World positions [..., 3] of indices."""
        return self.centre + (indices + 0.5) * self.cell - self.radius


def carve(rgba: np.ndarray, cameras: Cameras, centre: np.ndarray, radius: float, *, against: int = 1) -> Grid:
    """The visual hull of views.

    Args:
        rgba: [V, H, W, 4] straight alpha.
        cameras: Of the views.
        centre: [3] of the cube that is carved.
        radius: Half the cube's side.
        against: Number of views that must exclude a point.

    Returns:
        The fine grid; each value is the `against`-th smallest alpha with which views show its cell's centre. Views that
        do not see the centre exclude nothing, nor do those whose mask has failed (`FAILED_AREA`).
    """
    alphas = np.asarray(rgba, np.float32)[..., 3]
    areas = (alphas > 0.5).sum(axis=(1, 2))
    kept = np.flatnonzero(areas >= FAILED_AREA * np.median(areas))
    alphas, cameras = alphas[kept], cameras if len(kept) == len(alphas) else cameras[jnp.asarray(kept)]
    against = min(against, len(kept))
    side = int(np.clip(max(alphas.shape[1:]) // 4, FEWEST_COARSE, MOST_COARSE))
    coarse = Grid(np.asarray(centre, np.float64), radius, np.zeros((side,) * 3, np.float32))
    centres = coarse.world(_indices(side))
    reach = _pixels(cameras, centres, 0.5 * 3**0.5 * coarse.cell)
    window = (1, 2 * reach + 1, 2 * reach + 1)
    possible = shown_alpha(centres, maximum_filter(alphas, window), cameras, against) > 0.5
    certain = shown_alpha(centres, minimum_filter(alphas, window), cameras, against) > 0.5
    values = np.kron(certain.reshape((side,) * 3), np.ones((FINER,) * 3)).astype(np.float32)
    fine = Grid(coarse.centre, radius, values)
    cells = np.argwhere((possible & ~certain).reshape((side,) * 3))
    indices = (cells[:, None] * FINER + _indices(FINER)[None]).reshape(-1, 3)
    values[tuple(indices.T)] = shown_alpha(fine.world(indices), alphas, cameras, against)
    return fine


def covered(grid: Grid, rgba: np.ndarray, cameras: Cameras) -> float:
    """Share of the masks' pixels that a hull covers, the median over the views; 0 without any mask."""
    points = grid.world(np.argwhere(grid.values > 0.5))
    if not len(points):
        return 0.0
    parts = [[np.asarray(found) for found in _project(part, cameras)] for part in _chunks(points)]
    u, v, seen, _ = (np.concatenate(found, 1)[:, : len(points)] for found in zip(*parts, strict=True))
    reach = 2 * _pixels(cameras, points, 0.5 * grid.cell) + 1
    shares = []
    for view, mask in enumerate(np.asarray(rgba)[..., 3] > 0.5):
        hit = np.zeros(mask.shape, bool)
        hit[v[view][seen[view]].astype(int), u[view][seen[view]].astype(int)] = True
        shares.append((maximum_filter(hit, reach) & mask).sum() / max(mask.sum(), 1))
    return float(np.median(shares))


def shown_alpha(points: np.ndarray, alphas: np.ndarray, cameras: Cameras, against: int = 1) -> np.ndarray:
    """The `against`-th smallest alpha [N] with which views [V, H, W] show points [N, 3]; 1 where none sees one."""
    images = jnp.asarray(alphas)
    found = [np.asarray(_shown_alpha(part, images, cameras, against)) for part in _chunks(points)]
    return np.concatenate(found)[: len(points)]


def _chunks(points: np.ndarray) -> np.ndarray:
    """Points [N, 3] in parts [n, `POINTS_AT_ONCE`, 3], zeros behind them: one program serves any number."""
    rows = -(-max(len(points), 1) // POINTS_AT_ONCE) * POINTS_AT_ONCE
    padded = np.zeros((rows, 3), np.float32)
    padded[: len(points)] = points
    return padded.reshape(-1, POINTS_AT_ONCE, 3)


@partial(jax.jit, static_argnames="against")
def _shown_alpha(points: jax.Array, alphas: jax.Array, cameras: Cameras, against: int) -> jax.Array:
    u, v, seen, _ = project(points, cameras)
    alpha = jnp.where(seen, bilinear(alphas[..., None], u, v)[..., 0], 1.0)
    return -jax.lax.top_k(-alpha.T, against)[0][:, -1]


def project(points: jax.Array, cameras: Cameras) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Pixel coordinates u and v [V, N], whether they lie in the image, and depths."""
    pose = cameras.world_to_camera
    local = jnp.einsum("vij,nj->vin", pose[:, :3, :3], points, precision="highest") + pose[:, :3, 3:]
    ahead = jnp.maximum(local[:, 2], 1e-6)
    image = image_points(cameras, local[:, 0], local[:, 1], ahead)
    u, v = jnp.nan_to_num(image.u, nan=-1.0), jnp.nan_to_num(image.v, nan=-1.0)
    inside = (u >= 0) & (u < cameras.width) & (v >= 0) & (v < cameras.height)
    return u, v, inside & image.seen & (local[:, 2] > 0), local[:, 2]


_project = jax.jit(project)


def bilinear(images: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
    """[V, N, C] of images [V, H, W, C] between pixel centres; edges continue outwards."""
    height, width = images.shape[1:3]
    x, y = jnp.clip(u - 0.5, 0.0, width - 1.0), jnp.clip(v - 0.5, 0.0, height - 1.0)
    left, top = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    across, down = (x - left)[..., None], (y - top)[..., None]
    view = jnp.arange(len(images))[:, None]
    upper = images[view, top, left] * (1.0 - across) + images[view, top, right] * across
    lower = images[view, bottom, left] * (1.0 - across) + images[view, bottom, right] * across
    return upper * (1.0 - down) + lower * down


def _indices(side: int) -> np.ndarray:
    """All indices [side^3, 3] of a cube."""
    return np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)


def _pixels(cameras: Cameras, points: np.ndarray, length: float) -> int:
    """Pixels that a length around the nearest of the points can cover, rounded up."""
    pose = np.asarray(cameras.world_to_camera, np.float64)
    depth = np.einsum("vj,nj->vn", pose[:, 2, :3], points) + pose[:, 2, 3:]
    nearest = max(float(depth.min()), 0.1 * float(np.median(depth)))
    return int(np.ceil(length * float(np.asarray(cameras.intrinsics)[:, [0, 1], [0, 1]].max()) / nearest))
