"""Times the rasterizer's parts alone, each a program of its own on the outputs of the part before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import splat
from splat.binning import build_bins, depth_order
from splat.cameras import Cameras
from splat.compositing import Passes, composite, find_live, gradient_rows, sum_light, sum_pairs
from splat.gaussians import Gaussians
from splat.inputs import Inputs
from splat.options import RenderOptions, resolve
from splat.tiles import TileGrid, tile_ranges
from splat.views import project_inputs, select


def time_stages(
    gaussians: Gaussians,
    cameras: Cameras,
    options: RenderOptions,
    timed: Callable[[Callable[[], Any]], dict[str, float]],
) -> dict[str, float | int]:
    """Milliseconds of each part of one rendering and its gradient.

    `binning` contains the depth sort and the sort by tile. `composite` is the whole forward compositing with the
    sums over tiles: the two passes before it are parts of it. What is left of forward plus backward beside these is
    the gradient of the projection and the image's way out of and into tiles.

    Args:
        gaussians: N gaussians, colours of degree 0 or higher.
        cameras: V cameras.
        options: Of `splat.render`.
        timed: Gives the median and minimum time of a call, see `timing.timed`.

    Returns:
        `<part>_median_ms` of each part, and the numbers of pairs and blocks.
    """
    gaussians, cameras = jax.tree.map(jnp.asarray, (gaussians, cameras))
    pairs = splat.count_pairs(gaussians, cameras, options=options)
    capacity = splat.round_capacity(pairs)
    grid = TileGrid(len(cameras), cameras.width, cameras.height, capacity, resolve(options))
    figures: dict[str, float | int] = {"pairs": int(pairs)}

    def stage(name, function, *arguments):
        """The result of a part, its time taken down."""
        program = jax.jit(function)
        result = program(*arguments)
        figures[f"{name}_median_ms"] = timed(lambda: program(*arguments))["median_ms"]
        return result

    def project(gaussians, cameras):
        inputs = Inputs(gaussians, cameras)
        return project_inputs(inputs, select(inputs), options).projected

    def sort_depths(projected):
        columns, rows = jnp.moveaxis(tile_ranges(projected, grid)[2], -1, 0)
        return depth_order(projected.depths, columns * rows > 0)

    def make_table(projected):
        parts = projected.means, projected.conics, projected.opacities[..., None], projected.colors
        parts = jnp.concatenate([*parts, projected.depths[..., None]], axis=-1)
        return parts.reshape(-1, parts.shape[-1])

    projected = stage("projection", project, gaussians, cameras)
    stage("depth_sort", sort_depths, projected)
    bins = stage("binning", lambda projected: build_bins(projected, grid), projected)
    table = jax.jit(make_table)(projected)
    live, live_place, log_start = stage("first_pass", lambda table, bins: find_live(table, bins, grid), table, bins)
    light = stage(
        "second_pass",
        lambda table, bins, live, log_start: sum_light(table, bins, live, log_start, grid),
        table,
        bins,
        live,
        log_start,
    )
    features = jnp.concatenate([projected.colors, projected.depths[..., None]], axis=-1)
    outputs = stage(
        "composite",
        lambda means, conics, opacities, features, bins: composite(
            means, conics, opacities, features, None, bins, grid
        ),
        projected.means,
        projected.conics,
        projected.opacities,
        features,
        bins,
    )
    passes = Passes(live, live_place, log_start, light, outputs[1])
    rows = stage(
        "gradient_rows",
        lambda table, bins, passes, outputs: gradient_rows(table, bins, passes, outputs, grid),
        table,
        bins,
        passes,
        outputs,
    )
    stage(
        "gradient_sums", lambda rows, bins, live_place: sum_pairs(rows, bins, live_place, grid), rows, bins, live_place
    )
    return figures | {"blocks": int(bins.blocks.used), "live_blocks": int(live.used)}
