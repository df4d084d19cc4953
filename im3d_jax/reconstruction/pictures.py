"""Where a fit of opaque pictures starts: on surfaces that a plane sweep finds, before a shell with all other colours.

What the sweep cannot find (sky, blank walls) is drawn on the shell: a sphere around the cameras and all surfaces, in
the colours of the pixels without depth.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from im3d_jax.reconstruction import sweep
from im3d_jax.reconstruction.initial import pixels_of
from im3d_jax.reconstruction.presets import PictureStart
from im3d_jax.reconstruction.surface import Surface
from im3d_jax.reconstruction.sweep import Cloud, SmallViews
from splat import Cameras


FEWEST_VIEWS = 4
# Surfaces of fewer points have no normals, and show nothing.
FEWEST_POINTS = 16
# Share of the references' pixels that count whose depth must be found. Where fewer are, as of few views around an
# object on white, most of the picture would land on the shell, and a fit from the ball comes closer sooner.
LEAST_FOUND = 0.2
# Share of valid pixels inside their bounding box: where a mask leaves less, it cuts out an object.
LEAST_VALID = 0.9
# Alpha above this is opaque.
OPAQUE = 0.99
# Radius of the shell, in units of the distance of nearly all surfaces from the cameras' mean.
SHELL = 1.5
# What a pixel with depth weighs for the shell's colours: it counts only where no pixel without depth does.
FOREGROUND_WEIGHT = 1e-3


def show_a_scene(rgba: np.ndarray, valid: np.ndarray | None = None) -> bool:
    """Whether pictures are opaque and whole: no alpha, and no masks that cut out an object.

    Args:
        rgba: [V, H, W, 4].
        valid: [V, H, W] bool of the pixels that count: padding and small masks do not matter. None if all do.
    """
    if valid is None:
        return bool((rgba[..., 3] > OPAQUE).all())
    boxes = 0
    for view in valid:
        rows, columns = np.flatnonzero(view.any(axis=1)), np.flatnonzero(view.any(axis=0))
        if len(rows):
            boxes += int(np.ptp(rows) + 1) * int(np.ptp(columns) + 1)
    return bool((rgba[valid][:, 3] > OPAQUE).all()) and int(valid.sum()) >= LEAST_VALID * max(1, boxes)


def sphere_points(count: int) -> np.ndarray:
    """Points [count, 3] spread evenly over the unit sphere: a Fibonacci lattice (Gonzalez 2010)."""
    place = np.arange(count) + 0.5
    height = 1.0 - 2.0 * place / count
    angle = place * math.pi * (3.0 - math.sqrt(5.0))
    radius = np.sqrt(1.0 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=-1)


def shell_around(cloud: Cloud, views: SmallViews, known: dict[int, np.ndarray], count: int) -> Surface:
    """A shell around cameras and surfaces in the colours of the pixels without depth.

    Args:
        cloud: The surfaces.
        views: All views.
        known: {view: [h * w] bool of its pixels with depth}.
        count: Points of a whole sphere; those that no view sees are left out.
    """
    eyes = np.asarray(views.cameras.positions, np.float64)
    middle = eyes.mean(axis=0)
    reach = np.quantile(np.linalg.norm(cloud.points - middle[None], axis=-1), 0.98)
    radius = SHELL * max(float(reach), 2.0 * float(np.linalg.norm(eyes - middle[None], axis=-1).max()))
    directions = sphere_points(count)
    points = middle[None] + radius * directions
    sums, weights = np.zeros((count, 3)), np.zeros(count)
    for view in range(len(views.rgb)):
        column, row, seen = pixels_of(points, views.cameras[view])
        seen &= views.valid[view][row, column]
        weight = seen.astype(np.float64)
        if view in known:
            weight *= np.where(known[view][row * views.cameras.width + column], FOREGROUND_WEIGHT, 1.0)
        else:
            weight *= FOREGROUND_WEIGHT
        sums += weight[:, None] * views.rgb[view][row, column]
        weights += weight
    shown = weights > 0
    spacing = np.full(int(shown.sum()), radius * math.sqrt(4.0 * math.pi / count))
    colours = sums[shown] / weights[shown, None]
    return Surface(points[shown], -directions[shown], spacing, colours, np.ones(len(spacing), bool))


def surface_of(cloud: Cloud, near: int = 8) -> Surface:
    """Normals and spacings of points from their nearest neighbours.

    Args:
        cloud: More than `near` points.
        near: Neighbours whose plane of least squares gives the normal.
    """
    distance, place = KDTree(cloud.points).query(cloud.points, k=near + 1)
    around = cloud.points[place] - cloud.points[place].mean(axis=1, keepdims=True)
    normals = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))[1][:, :, 0]
    spacing = np.sqrt((distance[:, 1:4] ** 2).mean(axis=-1))
    # Outliers have no neighbours and must not become huge; points of several views nearly coincide.
    spacing = np.clip(spacing, 0.5 * cloud.sizes, 2.0 * cloud.sizes)
    return Surface(cloud.points, normals, spacing, cloud.colours, np.ones(len(spacing), bool))


def find_surfaces(
    rgba: np.ndarray,
    cameras: Cameras,
    start: PictureStart,
    valid: np.ndarray | None = None,
    report: Callable[[int, int], Any] = lambda done, total: None,
) -> Surface | None:
    """Surfaces of a scene and a shell around them.

    Args:
        rgba: [V, H, W, 4] straight alpha.
        cameras: Of the views.
        start: Numbers of points.
        valid: [V, H, W] bool of the pixels that count; None if all do.
        report: Called with (views done, all).

    Returns:
        At most `start.count + start.shell` points; None where the pictures have alpha, are fewer than `FEWEST_VIEWS`,
        or show too little that can be compared.
    """
    if len(rgba) < FEWEST_VIEWS or cameras.model == "orthographic" or not show_a_scene(rgba, valid):
        return None
    views = sweep.small_views(rgba, cameras, valid)
    maps = sweep.depth_maps(views, report)
    kept = sweep.consistent(maps, views.cameras)
    if kept.sum() < LEAST_FOUND * views.valid[maps.views].sum():
        return None
    cloud = sweep.cloud_of(maps, views, kept)
    thin = sweep.thinned(cloud, start.count)
    if len(thin.points) < FEWEST_POINTS:
        return None
    known = {int(view): maps.found[place] for place, view in enumerate(maps.views)}
    shell = shell_around(cloud, views, known, start.shell)
    parts = surface_of(thin), shell
    fields = [field.name for field in dataclasses.fields(Surface)]
    return Surface(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in fields})
