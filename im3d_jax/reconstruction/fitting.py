"""Direct fitting of gaussians to views: Adam on image losses with density control.

A fit is a pure function of its state: the random numbers and the view of every step follow from the state's
key and the step's number, so that a fit that was stopped, saved and resumed equals an uninterrupted one.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.models import perceptual
from im3d_jax.reconstruction import initial, losses
from im3d_jax.reconstruction.losses import Targets
from im3d_jax.reconstruction.presets import PRESETS, FitConfig
from im3d_jax.reconstruction.state import FitState, final_gaussians, load_state, save_state
from splat import Cameras, Gaussians, count_pairs, density, render, round_capacity


__all__ = [
    "PRESETS",
    "FitConfig",
    "FitState",
    "Targets",
    "final_gaussians",
    "fit",
    "init_state",
    "load_state",
    "save_state",
]

ADAM_DECAY = (0.9, 0.999)
ADAM_EPS = 1e-15
# Surplus room costs little beside a second compilation, and gaussians grow and multiply.
INITIAL_PAIR_MARGIN = 1.0
PAIR_MARGIN = 0.25

Progress = Callable[[int, int, str], Any]


def init_state(
    key: jax.Array,
    config: FitConfig,
    cameras: Cameras,
    points: np.ndarray | None = None,
    targets: Targets | None = None,
) -> FitState:
    """The state before the first step.

    Args:
        key: PRNG key, typed or raw.
        config: The fit's settings.
        cameras: Of the views to fit; they give the extent where the settings do not, and the room for pairs.
        points: [n, 3] places to start from.
        targets: The views; without `points` a capture (`config.extent` None) starts inside their visual hull.

    Without both, gaussians fill a ball: at the origin, or for a capture what all its cameras see.
    """
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    extent = initial.camera_extent(cameras) if config.extent is None else config.extent
    if points is None and config.extent is None:
        rgba = None if targets is None else np.asarray(targets.rgba)
        points = initial.seen_points(jax.random.fold_in(key, 4), cameras, config.initial, rgba)
    gaussians, active = initial.initial_gaussians(jax.random.fold_in(key, 0), config, extent, points)
    # Weakly typed leaves would come back strongly typed from the first segment and compile all of it again.
    gaussians = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.dtype("float32")), gaussians)
    zeros = jax.tree.map(jnp.zeros_like, gaussians)
    views = min(config.views_per_step, len(cameras))
    pairs = count_pairs(gaussians, cameras[jnp.arange(views)], active=active)
    return FitState(
        gaussians=gaussians,
        active=active,
        first_moments=zeros,
        second_moments=zeros,
        statistics=density.no_statistics(config.capacity),
        key=key,
        step=jnp.int32(0),
        extent=jnp.float32(extent),
        pair_capacity=round_capacity(pairs * config.views_per_step // views, margin=INITIAL_PAIR_MARGIN),
    )


def fit(
    state: FitState,
    targets: Targets,
    cameras: Cameras,
    config: FitConfig,
    *,
    features: perceptual.Perceptual | Callable[[jax.Array], list[jax.Array]] | None = None,
    stop_step: int | None = None,
    progress: Progress | None = None,
) -> tuple[FitState, dict[str, float]]:
    """Fits from the state's step up to `stop_step`.

    Args:
        state: From `init_state`, a former call or a file; it is not changed.
        targets: The views.
        cameras: Of the views.
        config: The settings, the same over the whole fit.
        features: Network of the perceptual term: a `Perceptual`, or a function of [B, H, W, 4] images (colour
            on white, alpha), preferably a `jax.tree_util.Partial` that holds its arrays. None: no such term.
        stop_step: Where to stop, at most `config.steps` (the default).
        progress: Called after each segment with (steps done, all steps, a note).

    Returns:
        The new state, and figures of the last segment: the terms' means, `loss`, `gaussians`, `pairs`.

    Raises:
        ValueError: Targets and cameras do not fit together.
        FloatingPointError: The loss is no longer finite.
    """
    views = (len(cameras), cameras.height, cameras.width, 4)
    if targets.rgba.shape != views:
        raise ValueError(
            f"got targets of shape {targets.rgba.shape} for cameras of {views}; expected equal shapes: "
            "resize the views or scale the cameras' intrinsics"
        )
    network, kept = None, None
    if features is not None and config.perceptual_weight > 0:
        network = perceptual.as_perceptual(features)
        kept = _target_features(network, targets.rgba)
    stop = config.steps if stop_step is None else min(stop_step, config.steps)
    step, info = int(state.step), {}
    while step < stop:
        if _densifies(step, config):
            state = _densify(state, config)
        if config.reset_opacity_every and step and step % config.reset_opacity_every == 0:
            state = _reset_opacities(state)
        length = min(config.densify_every - step % config.densify_every, stop - step)
        state, info = _segment(state, targets, cameras, network, kept, config, length)
        step += length
        if not math.isfinite(info["loss"]):
            raise FloatingPointError(f"the loss is {info['loss']} at step {step}; are the targets finite?")
        if progress is not None:
            progress(step, config.steps, f"loss {info['loss']:.4f}, {info['gaussians']:.0f} gaussians")
    return state, info


def _segment(state, targets, cameras, network, kept, config, length) -> tuple[FitState, dict[str, float]]:
    """Some steps without a host synchronisation, repeated with more room while pairs were left out."""
    while True:
        # One dispatch per step: inside a device loop XLA runs CPU convolutions seven times slower.
        # Steps consume their state; the copy keeps the caller's for a repetition.
        carry = jax.tree.map(jnp.copy, state), _no_figures(config, network)
        for _ in range(length):
            carry = _step(*carry, targets, cameras, network, kept, config)
        new, figures = carry
        pairs = int(figures["pairs"])
        if pairs <= state.pair_capacity:
            terms = {name: float(total) / length for name, total in figures["terms"].items()}
            return new, terms | {"gaussians": int(jnp.sum(new.active)), "pairs": pairs}
        state = state.replace(pair_capacity=round_capacity(pairs, margin=PAIR_MARGIN))


def _no_figures(config: FitConfig, network: perceptual.Perceptual | None) -> dict[str, Any]:
    names = [*losses.term_weights(config, network is not None), "loss"]
    return {"terms": {name: jnp.zeros((), jnp.float32) for name in names}, "pairs": jnp.int32(0)}


def _densifies(step: int, config: FitConfig) -> bool:
    inside = config.densify_from <= step < min(config.densify_until, config.steps)
    return inside and step > 0 and step % config.densify_every == 0


@jax.jit
def _target_features(network, rgba):
    return losses.target_features(network, rgba)


@partial(jax.jit, static_argnames="config")
def _densify(state: FitState, config: FitConfig) -> FitState:
    key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
    grown = density.densify(
        key, state.gaussians, state.active, state.statistics, config.density, state.extent
    )

    def clear(moment: jax.Array) -> jax.Array:
        return jnp.where(grown.fresh.reshape((-1,) + (1,) * (moment.ndim - 1)), 0.0, moment)

    return state.replace(
        gaussians=grown.gaussians,
        active=grown.active,
        first_moments=jax.tree.map(clear, state.first_moments),
        second_moments=jax.tree.map(clear, state.second_moments),
        statistics=density.no_statistics(config.capacity),
    )


@jax.jit
def _reset_opacities(state: FitState) -> FitState:
    logits = density.reset_opacities(state.gaussians.opacity_logits)
    none = jnp.zeros_like(logits)
    return state.replace(
        gaussians=state.gaussians.replace(opacity_logits=logits),
        first_moments=state.first_moments.replace(opacity_logits=none),
        second_moments=state.second_moments.replace(opacity_logits=none),
    )


@partial(jax.jit, static_argnames="config", donate_argnames=("state", "figures"))
def _step(state: FitState, figures, targets, cameras, network, kept, config):
    chosen = views_of_step(state.key, state.step, len(cameras), config.views_per_step)
    some = cameras[chosen]
    target = targets.rgba[chosen]
    features = None if kept is None else [level[chosen] for level in kept]
    if config.background == "random":
        background = jax.random.uniform(
            jax.random.fold_in(jax.random.fold_in(state.key, 2), state.step), (3,)
        )
    else:
        background = jnp.ones(3)

    def loss(gaussians, offset):
        image = render(
            gaussians,
            some,
            background=1.0,
            capacity=state.pair_capacity,
            active=state.active,
            mean2d_offset=offset,
        )
        value, terms = losses.view_loss(image.rgb, image.alpha, target, background, config, network, features)
        return value, (terms, image.pairs, image.visible)

    offset = jnp.zeros((config.views_per_step, config.capacity, 2), jnp.float32)
    (value, (terms, pairs, visible)), (gradient, screen) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        state.gaussians, offset
    )
    state = _adam(state, gradient, config)
    statistics = density.accumulate(state.statistics, screen, visible, cameras.width, cameras.height)
    terms = terms | {"loss": value}
    figures = {
        "terms": {name: total + terms[name] for name, total in figures["terms"].items()},
        "pairs": jnp.maximum(figures["pairs"], pairs),
    }
    return state.replace(statistics=statistics), figures


def views_of_step(key: jax.Array, step: jax.Array, views: int, count: int) -> jax.Array:
    """Views [count] of a step: shuffled cycles through all of them, as a function of the key and the step."""
    draw = step * count + jnp.arange(count)
    cycles = jax.vmap(lambda cycle: jax.random.fold_in(jax.random.fold_in(key, 3), cycle))(draw // views)
    orders = jax.vmap(lambda cycle: jnp.argsort(jax.random.uniform(cycle, (views,))))(cycles)
    return jnp.take_along_axis(orders, (draw % views)[:, None], axis=1)[:, 0]


def _rates(state: FitState, config: FitConfig) -> Gaussians:
    """Learning rates, broadcastable to each group."""
    first, last = config.lr_means
    progress = jnp.minimum(state.step / config.steps, 1.0)
    means = state.extent * first * (last / first) ** progress
    degree = jnp.floor(jnp.sqrt(jnp.arange(state.gaussians.sh.shape[1]) + 0.5))
    freed = state.step // config.sh_every if config.sh_every else config.sh_degree
    higher = jnp.where(degree <= freed, config.lr_sh / 20, 0.0)
    return Gaussians(
        means=means,
        quats=config.lr_quats,
        log_scales=config.lr_scales,
        opacity_logits=config.lr_opacities,
        sh=jnp.where(degree == 0, config.lr_sh, higher)[None, :, None],
    )


def _adam(state: FitState, gradient: Gaussians, config: FitConfig) -> FitState:
    """One step of Adam (Kingma & Ba 2015, algorithm 1) with a rate for each group."""
    decay_first, decay_second = ADAM_DECAY
    count = (state.step + 1).astype(jnp.float32)
    correct_first, correct_second = 1 - decay_first**count, 1 - decay_second**count
    first = jax.tree.map(lambda m, g: decay_first * m + (1 - decay_first) * g, state.first_moments, gradient)
    second = jax.tree.map(
        lambda v, g: decay_second * v + (1 - decay_second) * g * g, state.second_moments, gradient
    )

    def move(value, rate, m, v):
        return value - rate * (m / correct_first) / (jnp.sqrt(v / correct_second) + ADAM_EPS)

    gaussians = jax.tree.map(move, state.gaussians, _rates(state, config), first, second)
    return state.replace(gaussians=gaussians, first_moments=first, second_moments=second, step=state.step + 1)
