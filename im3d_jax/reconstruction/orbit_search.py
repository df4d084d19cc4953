"""Which way an orbit turns and how high it stands, found by fitting gaussians and the elevation together.

For views of a network whose rig is not published: a short fit of each direction with one free elevation for the whole
orbit, moved by the gradient of the cameras; the direction with the lower loss goes on. Depth reversal makes the wrong
direction look almost right (it also turns the elevation's sign); occlusion and perspective tell them apart.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.images.resize import shrink
from im3d_jax.reconstruction import losses, optimizer
from im3d_jax.reconstruction.fitting import init_state, views_of_step
from im3d_jax.reconstruction.presets import FitConfig
from im3d_jax.reconstruction.state import FitState
from splat import Cameras, look_at, pinhole_intrinsics, render, round_capacity


Direction = Literal["ccw", "cw"]
DIRECTIONS: tuple[Direction, ...] = ("ccw", "cw")
SIGNS = {"ccw": 1.0, "cw": -1.0}
LIMIT = math.radians(80.0)  # of the elevation: at the pole the rig has no azimuth


@dataclasses.dataclass(frozen=True)
class Search:
    """How an orbit is searched.

    Attributes:
        side: Longest side of the views it looks at, pixels.
        steps: Of each direction's fit.
        more: Further steps of the better one, for its elevation.
        warm: Steps at the start during which the elevation rests, until there is a shape.
        lr_elevation: Adam's rate, radians; falls to a tenth over `steps + more`.
        fit: Settings of the gaussians.
    """

    side: int = 96
    steps: int = 100
    more: int = 200
    warm: int = 25
    lr_elevation: float = 0.01
    fit: FitConfig = FitConfig(
        steps=300, views_per_step=4, capacity=3000, initial=3000, perceptual_weight=0.0, ssim_weight=0.2,
        multiscale=False, mask_weight=2.0, l1_weight=1.0, densify_until=0, lr_means=(1e-2, 2e-3), lr_sh=2e-2,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Orbit:
    """What was found.

    Attributes:
        elevation: Radians.
        direction: Counter-clockwise or clockwise seen from +z.
        losses: Of each direction that was tried, at the end of its own `Search.steps`.
        start: Where the elevation's fit began, radians; None where it was known.
        reach: How far from there it could go, radians; None for anywhere.
    """

    elevation: float
    direction: Direction
    losses: Mapping[str, float]
    start: float | None = None
    reach: float | None = None


class _Search(flax.struct.PyTreeNode):
    """A fit under way: gaussians, elevation and its moments, sum of the losses, most pairs of a step."""

    fit: FitState
    elevation: jax.Array
    moments: tuple[jax.Array, jax.Array]
    total: jax.Array
    pairs: jax.Array


def rig_cameras(
    elevation: float | jax.Array,
    direction: Direction | jax.Array,
    *,
    views: int,
    distance: float,
    fov: float,
    width: int,
    height: int,
) -> Cameras:
    """The turntable that turns either way: camera i at azimuth ± i · 2 pi / views; see `splat.orbit_cameras`.

    Args:
        elevation: Radians; may be traced.
        direction: ``ccw`` or ``cw``, or a traced +1 or -1.
        views: Number of cameras.
        distance: Of every camera from the origin.
        fov: Horizontal field of view, radians.
        width: Of the images, pixels.
        height: Of the images, pixels.
    """
    sign = SIGNS[direction] if isinstance(direction, str) else direction
    azimuth = sign * jnp.arange(views, dtype=jnp.float32) * (2.0 * math.pi / views)
    elevation = jnp.broadcast_to(jnp.asarray(elevation, jnp.float32), (views,))
    level = jnp.cos(elevation)
    eye = distance * jnp.stack([level * jnp.cos(azimuth), level * jnp.sin(azimuth), jnp.sin(elevation)], axis=-1)
    intrinsics = jnp.broadcast_to(pinhole_intrinsics(fov, width, height)[None], (views, 3, 3))
    return Cameras(look_at(eye), intrinsics, width, height)


def find_orbit(
    rgba: np.ndarray,
    *,
    elevation: float,
    directions: Sequence[Direction],
    distance: float,
    fov: float,
    key: jax.Array,
    fixed: bool = False,
    reach: float | None = None,
    search: Search | None = None,
    progress: Callable[[int, int, str], Any] | None = None,
) -> Orbit:
    """Fits the orbit of views that were drawn at even azimuths.

    Args:
        rgba: [V, H, W, 4] views in [0, 1], straight alpha.
        elevation: Radians, where the search starts, or the known one.
        directions: Those to try, one or both.
        distance: Of the cameras from the origin.
        fov: Horizontal field of view, radians.
        key: PRNG key of the fits.
        fixed: The elevation is known and stays.
        reach: How far from the start the elevation may go, radians; None for anywhere.
        search: How long and how finely.
        progress: Called with (steps done, all steps, a note).

    Returns:
        The elevation and direction; nothing is computed where both are known.
    """
    search = Search() if search is None else search
    if fixed and len(directions) == 1:
        return Orbit(elevation, directions[0], {})
    targets = jnp.asarray(_reduced(rgba, search.side))
    views, height, width, _ = targets.shape
    config = dataclasses.replace(search.fit, steps=search.steps + search.more)
    first = rig_cameras(elevation, directions[0], views=views, distance=distance, fov=fov, width=width, height=height)
    start = init_state(key, config, first)
    total = len(directions) * search.steps + (0 if fixed else search.more)
    rate = 0.0 if fixed else search.lr_elevation
    width = 2.0 * LIMIT if reach is None else reach
    bounds = np.clip([elevation - width, elevation + width], -LIMIT, LIMIT)
    bounds = np.asarray([elevation] * 2 if fixed else bounds, np.float32)

    def run(state: _Search, direction: Direction, steps: int) -> tuple[_Search, float]:
        sign = jnp.float32(SIGNS[direction])
        return _run(state, (targets, sign, rate, search.warm, bounds), (config, distance, fov), steps)

    found: dict[Direction, tuple[_Search, float]] = {}
    for number, direction in enumerate(directions):
        zero = jnp.float32(0.0)
        state = _Search(start, jnp.float32(elevation), (zero, zero), zero, jnp.int32(0))
        # Losses of the last half alone: the first steps say how the fit began.
        state, _ = run(state, direction, search.steps - search.steps // 2)
        found[direction] = state, loss = run(state, direction, search.steps // 2)
        if progress is not None:
            progress((number + 1) * search.steps, total, f"{direction}: loss {loss:.4f}")
    best = min(found, key=lambda direction: found[direction][1])
    losses_found = {direction: round(loss, 6) for direction, (_, loss) in found.items()}
    if fixed:
        return Orbit(elevation, best, losses_found)
    state, _ = run(found[best][0], best, search.more)
    found_elevation = float(state.elevation)
    if progress is not None:
        progress(total, total, f"{best}: elevation {math.degrees(found_elevation):.1f} degrees")
    return Orbit(found_elevation, best, losses_found, elevation, reach)


def _reduced(rgba: np.ndarray, side: int) -> np.ndarray:
    """Views made smaller by whole blocks."""
    block = max(1, -(-max(rgba.shape[1:3]) // side))
    return np.stack([shrink(np.asarray(view, np.float32), block) for view in rgba])


def _run(state: _Search, arguments: tuple, static: tuple, steps: int) -> tuple[_Search, float]:
    """Some steps, repeated with more room while pairs were left out; the new state and the mean loss."""
    while True:
        carry = state.replace(total=jnp.float32(0.0), pairs=jnp.int32(0))
        if jax.default_backend() == "cpu":
            # As in `fitting`: inside a device loop CPUs are slower.
            for _ in range(steps):
                carry = _step(carry, *arguments, *static)
        else:
            carry = _steps(carry, *arguments, *static, jnp.int32(steps))
        pairs = int(carry.pairs)
        if pairs <= state.fit.pair_capacity:
            return carry, float(carry.total) / max(steps, 1)
        room = round_capacity(pairs, margin=static[0].pair_margin)
        state = state.replace(fit=state.fit.replace(pair_capacity=room))


def _advance(state: _Search, targets, sign, rate, warm, bounds, config: FitConfig, distance, fov) -> _Search:
    """One step of Adam on gaussians and elevation."""
    views, height, width, _ = targets.shape
    fit = state.fit
    chosen = views_of_step(fit.key, fit.step, views, config.views_per_step)

    def loss(gaussians, elevation):
        cameras = rig_cameras(elevation, sign, views=views, distance=distance, fov=fov, width=width, height=height)
        image = render(gaussians, cameras[chosen], background=1.0, capacity=fit.pair_capacity, active=fit.active)
        value, _ = losses.view_loss(image.rgb, image.alpha, targets[chosen], jnp.ones(3), config)
        return value, image.pairs

    gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(fit.gaussians, state.elevation)
    (value, pairs), (gradient, slope) = gradients
    gaussians, first, second = optimizer.adam(
        fit.gaussians, gradient, fit.first_moments, fit.second_moments, optimizer.rates(fit, config), fit.step
    )
    moving = (fit.step >= warm).astype(jnp.float32)
    fall = 0.1 ** jnp.minimum(fit.step / config.steps, 1.0)
    elevation, *moments = optimizer.adam(
        state.elevation, moving * slope, *state.moments, moving * rate * fall, jnp.maximum(fit.step - warm, 0)
    )
    return state.replace(
        fit=fit.replace(gaussians=gaussians, first_moments=first, second_moments=second, step=fit.step + 1),
        elevation=jnp.clip(elevation, bounds[0], bounds[1]),
        moments=tuple(moments),
        total=state.total + value,
        pairs=jnp.maximum(state.pairs, pairs),
    )


_STATIC = ("config", "distance", "fov")


@functools.partial(jax.jit, static_argnames=_STATIC)
def _step(state, targets, sign, rate, warm, bounds, config, distance, fov):
    return _advance(state, targets, sign, rate, warm, bounds, config, distance, fov)


@functools.partial(jax.jit, static_argnames=_STATIC)
def _steps(state, targets, sign, rate, warm, bounds, config, distance, fov, count):
    return jax.lax.fori_loop(
        0, count, lambda _, carry: _advance(carry, targets, sign, rate, warm, bounds, config, distance, fov), state
    )
