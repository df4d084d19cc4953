"""Rendering gaussians: the public entry."""

import dataclasses
from functools import partial

import jax
from jaxtyping import Array, Bool, Float, Int32, Num

from splat.binning import count_pairs as count_projected_pairs
from splat.cameras import Cameras
from splat.gaussians import Gaussians
from splat.inputs import Inputs, check_inputs
from splat.options import RenderOptions, ResolvedOptions, resolve
from splat.rasterize import Rendering, blank, rasterize, warn_about
from splat.scenes import flat_background, split_views
from splat.tiles import TileGrid
from splat.typing import AnyArray, Scalar
from splat.views import project_inputs, select


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: Scalar | Num[AnyArray, "*background 3"] = 0.0,
    capacity: int | None = None,
    active: Bool[AnyArray, "*scenes N"] | None = None,
    mean2d_offset: Float[AnyArray, "*views N 2"] | None = None,
    absolute_offset: Float[AnyArray, "*views N 2"] | None = None,
    features: Float[AnyArray, "*features N C"] | None = None,
    options: RenderOptions = RenderOptions(),
) -> Rendering:
    """Renders gaussians into every camera.

    Differentiable in gaussians, cameras, background, features and mean2d_offset. Gaussians [..., N, 3] and
    cameras [..., V, 4, 4] may have leading axes, one scene each; either may lack them and is then shared.

    Args:
        gaussians: N gaussians.
        cameras: V cameras with one image size.
        background: Colour behind everything: a scalar, [3], [..., V, 3], or an image for each view [..., V, H, W, 3].
        capacity: Room for (tile, gaussian) pairs over all views. Required under jit and grad, where the caller
            checks it against `Rendering.pairs`; measure it with `count_pairs`. None outside of them: `render`
            measures it.
        active: [..., N] bool; inactive gaussians are not drawn and get zero gradients. None: all are active.
        mean2d_offset: [..., V, N, 2] pixels added to the projected means; its gradient is the screen-space gradient.
        absolute_offset: [..., V, N, 2], values unused: its "gradient" is the screen-space gradient with the absolute
            value of every pixel's part, which does not cancel inside a large gaussian (AbsGS, Ye et al. 2024).
        features: [..., N, C] or [..., V, N, C] channels composited like the colour, over 0.
        options: Filters, optional outputs and tiling.

    Returns:
        `Rendering`.

    Raises:
        ValueError: The capacity is missing under jit or grad, or a shape does not fit.
    """
    inputs = Inputs(gaussians, cameras, background, active, mean2d_offset, absolute_offset, features)
    check_inputs(inputs)
    if capacity is None:
        if inputs.traced:
            raise ValueError(
                "render got no capacity inside jit or grad; expected an integer: measure it outside with "
                "splat.count_pairs(gaussians, cameras), pad it, and check Rendering.pairs against it"
            )
        capacity = round_capacity(count_pairs(gaussians, cameras, active=active, options=options))
    out = render_inputs(inputs, max(int(capacity), 1), resolve(options))
    if not inputs.traced:
        warn_about(out)
    return out


def count_pairs(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    active: Bool[AnyArray, "*scenes N"] | None = None,
    options: RenderOptions = RenderOptions(),
) -> int:
    """Counts the (tile, gaussian) pairs that `render` needs room for with the same options; outside jit.

    Args:
        gaussians: N gaussians, as for `render`.
        cameras: V cameras, as for `render`.
        active: [..., N] bool, as for `render`.
        options: Those of the rendering; `antialiased`, `exact_tiles` and `tile_size` change the number.

    Returns:
        Pairs over all views, 2^31 - 1 where there are more.

    Raises:
        ValueError: A shape does not fit.
    """
    inputs = Inputs(gaussians, cameras, active=active)
    check_inputs(inputs)
    # The optional outputs take no part: leaving them out saves compilations.
    sizes = dataclasses.replace(resolve(options), median_depth=False, normals=False)
    pairs = int(_count(inputs, 1, dataclasses.replace(sizes, exact_tiles=False)))
    if sizes.exact_tiles and 0 < pairs < 2**31 - 1:
        pairs = int(_count(inputs, round_capacity(pairs), sizes))
    return pairs


# Room that costs next to nothing: renderings below it share one compiled program.
LEAST_CAPACITY = 4096


def round_capacity(pairs: int, margin: float = 0.0) -> int:
    """Rounds a number of pairs up to one of eight sizes an octave, so that few sizes are ever compiled.

    Args:
        pairs: At least 0.
        margin: Share of the pairs to add first.

    Returns:
        The capacity, at least `LEAST_CAPACITY`.
    """
    needed = max(LEAST_CAPACITY, int(pairs * (1.0 + margin)) + 1)
    step = 1 << max(0, needed.bit_length() - 4)
    return -(-needed // step) * step


@partial(jax.jit, static_argnums=(1, 2))
def _count(inputs: Inputs, capacity: int, options: ResolvedOptions) -> Int32[Array, ""]:
    projected = project_inputs(inputs, select(inputs), options).projected
    cameras = inputs.cameras
    return count_projected_pairs(projected, TileGrid(inputs.views, cameras.width, cameras.height, capacity, options))


@partial(jax.jit, static_argnums=(1, 2))
def render_inputs(inputs: Inputs, capacity: int, options: ResolvedOptions) -> Rendering:
    """`render` of checked inputs.

    Args:
        inputs: Arrays that fit together.
        capacity: Room for pairs, at least 1 (static).
        options: Resolved options (static).

    Returns:
        `Rendering`.
    """
    count, scenes = len(inputs.gaussians), inputs.scenes
    grid = TileGrid(inputs.views, inputs.cameras.width, inputs.cameras.height, capacity, options)
    selection = select(inputs)
    background = flat_background(inputs.background, grid.views, grid.height, grid.width)
    if 0 in (count, grid.views, grid.height, grid.width):
        channels = None if inputs.features is None else inputs.features.shape[-1]
        return split_views(blank(background, count, channels, selection.invalid, grid), scenes)
    splats = project_inputs(inputs, selection, options)
    return split_views(rasterize(splats, background, selection.invalid, grid), scenes)
