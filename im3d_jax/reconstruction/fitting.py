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

from im3d_jax.images import metrics
from im3d_jax.images.alpha import composite
from im3d_jax.models import perceptual
from im3d_jax.reconstruction import control, initial, losses, optimizer, outside, pictures, poses, surface, unseen
from im3d_jax.reconstruction.losses import Targets
from im3d_jax.reconstruction.presets import FitConfig, capture_config
from im3d_jax.reconstruction.state import FitState, final_gaussians, load_state, save_state
from splat import Cameras, count_pairs, render, round_capacity


__all__ = [
    "FitConfig",
    "FitState",
    "Targets",
    "capture_config",
    "final_gaussians",
    "fit",
    "init_state",
    "load_state",
    "save_state",
]

# Surplus room costs little beside a second compilation, and gaussians grow and multiply.
INITIAL_PAIR_MARGIN = 1.0
HULL_PAIR_MARGIN = 0.1
# lego400's pairs grow 3.4 times from 10,000 gaussians to 160,000; points too few to cover a scene promise nothing.
MOST_PAIR_MARGIN = 3.0

Progress = Callable[[int, int, str], Any]


def init_state(
    key: jax.Array,
    config: FitConfig,
    cameras: Cameras,
    points: np.ndarray | None = None,
    targets: Targets | None = None,
    colours: np.ndarray | None = None,
    report: Callable[[int, int], Any] = lambda done, total: None,
) -> FitState:
    """The state before the first step.

    Args:
        key: PRNG key, typed or raw.
        config: The fit's settings.
        cameras: Of the views to fit; they give the extent where the settings do not, and the room for pairs.
        points: [n, 3] places to start from.
        targets: The views. Without `points`, `config.pictures` starts on the surfaces that a plane sweep finds,
            `config.hull` on the surface of their visual hull, and a capture (`config.extent` None) inside of it.
        colours: [n, 3] of the points, in [0, 1].
        report: Called with (views done, all) while pictures are swept.

    Without both, gaussians fill a ball: at the origin, or for a capture what all its cameras see.
    """
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    extent = initial.camera_extent(cameras) if config.extent is None else config.extent
    rgba = None if targets is None else np.asarray(targets.rgba)
    valid = None if targets is None or targets.valid is None else np.asarray(targets.valid)
    start = found = None
    if points is None and rgba is not None and config.pictures is not None:
        start = config.pictures
        found = pictures.find_surfaces(rgba, cameras, start, valid, report)
    elif points is None and rgba is not None and config.hull is not None:
        start = config.hull
        centre, radius = initial.look_centre(cameras), initial.seen_radius(cameras)
        found = surface.find_surface(rgba, cameras, centre, radius, start)
    on_hull = found is not None and start is config.hull
    if found is not None and start is not None:
        gaussians, active = initial.surface_gaussians(found, config, start)
    else:
        if points is None and config.extent is None:
            points = initial.seen_points(jax.random.fold_in(key, 4), cameras, config.initial, rgba, valid)
        gaussians, active = initial.initial_gaussians(jax.random.fold_in(key, 0), config, extent, points, colours)
    # Weakly typed leaves would come back strongly typed from the first segment and compile all of it again.
    gaussians = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.dtype("float32")), gaussians)
    zeros = jax.tree.map(jnp.zeros_like, gaussians)
    views = min(config.views_per_step, len(cameras))
    if found is not None:
        # On the surface and without density control the gaussians keep their pairs, to a twentieth.
        some = [jnp.arange(first, first + views) % len(cameras) for first in range(0, len(cameras), views)]
        pairs, margin = max(count_pairs(gaussians, cameras[part], active=active) for part in some), HULL_PAIR_MARGIN
    else:
        pairs = count_pairs(gaussians, cameras[jnp.arange(views)], active=active)
        margin = first_pair_margin(config, int(jnp.sum(active)), jax.default_backend())
    return FitState(
        gaussians=gaussians,
        active=active,
        first_moments=zeros,
        second_moments=zeros,
        statistics=config.strategy.init_statistics(config.capacity),
        key=key,
        step=jnp.int32(0),
        extent=jnp.float32(extent),
        hull=jnp.asarray(on_hull),
        scene=jnp.asarray(found is not None and not on_hull),
        poses=poses.still(len(cameras)) if config.lr_poses else None,
        pair_capacity=round_capacity(pairs * config.views_per_step // views, margin=margin),
    )


def first_pair_margin(config: FitConfig, active: int, backend: str) -> float:
    """Room for pairs at the start of a fit, as a share of those that are there.

    Args:
        config: Of the fit.
        active: Gaussians at the start.
        backend: Of JAX. On CPUs steps walk through the room and compilation is quick: there it stays small.
    """
    margin = max(INITIAL_PAIR_MARGIN, config.pair_margin)
    if backend == "cpu":
        return margin
    # n times the gaussians on a surface are 1 / sqrt(n) as wide: their pairs grow by sqrt(n) at most, or about.
    growth = (config.capacity / max(1, active)) ** 0.5
    return max(margin, min(growth - 1.0, MOST_PAIR_MARGIN))


def fit(
    state: FitState,
    targets: Targets,
    cameras: Cameras,
    config: FitConfig,
    *,
    features: perceptual.Perceptual | Callable[[jax.Array], list[jax.Array]] | None = None,
    stop_step: int | None = None,
    progress: Progress | None = None,
    observe: Callable[[FitState], Any] | None = None,
    looped: bool | None = None,
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
        observe: Called after each segment with the state. Segments end at the same steps whatever `fit` began with,
            so that a fit which goes on from a state seen here equals one that was never stopped.
        looped: Whether the steps of a segment are one program; by default everywhere but on CPUs.

    Returns:
        The new state, and figures of the last segment: the terms' means, `loss`, `gaussians`, `pairs`, and for
        captures `psnr` of the views against their targets.

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
    if looped is None:
        looped = jax.default_backend() != "cpu"
    step, info = int(state.step), {}
    while step < stop:
        state = control.act(state, step, config)
        length = min(_to_next(step, config.densify_every), _to_next(step, config.check_every), stop - step)
        state, info = _segment(state, targets, cameras, network, kept, config, length, looped)
        step += length
        if not math.isfinite(info["loss"]):
            raise FloatingPointError(f"the loss is {info['loss']} at step {step}; are the targets finite?")
        if step == config.steps:
            # Not after the loop: what `observe` saves at the last step must be what the fit returns.
            state = unseen.fill_unseen(outside.remove(state, targets, cameras, config), config)
            info["gaussians"] = int(jnp.sum(state.active))
        if progress is not None:
            decibels = f", {info['psnr']:.2f} dB" if "psnr" in info else ""
            progress(step, config.steps, f"loss {info['loss']:.4f}{decibels}, {info['gaussians']:.0f} gaussians")
        if observe is not None:
            observe(state)
    return state, info


def _to_next(step: int, period: int) -> int:
    return period - step % period


def _segment(state, targets, cameras, network, kept, config, length, looped) -> tuple[FitState, dict[str, float]]:
    """Some steps without a host synchronisation, repeated with more room while pairs were left out."""
    while True:
        # Steps consume their state; the copy keeps the caller's for a repetition.
        carry: tuple[FitState, dict[str, Any]] = jax.tree.map(jnp.copy, state), no_figures(config, network)
        if looped:
            carry = run_steps(*carry, targets, cameras, network, kept, config, jnp.int32(length))
        else:
            # One dispatch per step: inside a device loop XLA runs CPU convolutions seven times slower.
            for _ in range(length):
                carry = _step(*carry, targets, cameras, network, kept, config)
        new, figures = carry
        figures, active = jax.device_get((figures, jnp.sum(new.active)))
        pairs = int(figures["pairs"])
        if pairs <= state.pair_capacity:
            info: dict[str, float] = {name: float(total) / length for name, total in figures["terms"].items()}
            return new, info | {"gaussians": int(active), "pairs": pairs}
        state = state.replace(pair_capacity=round_capacity(pairs, margin=config.pair_margin))


def no_figures(config: FitConfig, network: perceptual.Perceptual | None) -> dict[str, Any]:
    """The figures that `run_steps` adds up, before the first step."""
    names = [*losses.term_weights(config, network is not None), "loss"]
    if config.l1_weight:
        names.append("psnr")
    return {"terms": {name: jnp.zeros((), jnp.float32) for name in names}, "pairs": jnp.int32(0)}


@jax.jit
def _target_features(network, rgba):
    return losses.target_features(network, rgba)


@partial(jax.jit, static_argnames="config", donate_argnames=("state", "figures"))
def _step(state: FitState, figures, targets, cameras, network, kept, config):
    return _advance(state, figures, targets, cameras, network, kept, config)


@partial(jax.jit, static_argnames="config", donate_argnames=("state", "figures"))
def run_steps(state: FitState, figures, targets, cameras, network, kept, config, length):
    """Steps of a fit as one program, which serves segments of all lengths; state and figures are donated.

    Args:
        state: The fit's.
        figures: Sums so far, from `no_figures`.
        targets: The views.
        cameras: Of the views.
        network: Of the perceptual term, or None.
        kept: `losses.target_features` of the views, or None.
        config: The settings.
        length: Number of steps, int32.

    Returns:
        State and figures.
    """

    def one(_, carry: tuple[FitState, dict[str, Any]]):
        return _advance(*carry, targets, cameras, network, kept, config)

    return jax.lax.fori_loop(0, length, one, (state, figures))


def _advance(state: FitState, figures, targets, cameras, network, kept, config):
    """One step of the fit."""
    chosen = views_of_step(state.key, state.step, len(cameras), config.views_per_step)
    some = cameras[chosen]
    target = targets.rgba[chosen]
    valid = None if targets.valid is None else targets.valid[chosen]
    features = None if kept is None else [level[chosen] for level in kept]
    if config.background == "random":
        background = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(state.key, 2), state.step), (3,))
    else:
        background = jnp.ones(3)

    def loss(gaussians, offset, motions):
        image = render(
            gaussians,
            some if motions is None else poses.moved(some, motions[chosen], state.extent),
            background=1.0,
            capacity=state.pair_capacity,
            active=state.active,
            mean2d_offset=offset,
        )
        rgb, alpha = losses.where_valid(image.rgb, image.alpha, target, valid)
        value, terms = losses.view_loss(rgb, alpha, target, background, config, network, features)
        value += config.strategy.regularizer(gaussians, state.active)
        if config.l1_weight:
            terms = terms | {"psnr": jnp.mean(metrics.psnr(jnp.clip(rgb, 0.0, 1.0), composite(target)))}
        return value, (terms, image.pairs, image.visible)

    statistics = state.statistics
    offset = None if statistics is None else jnp.zeros((config.views_per_step, config.capacity, 2), jnp.float32)
    motions = None if state.poses is None else state.poses.motions
    gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(state.gaussians, offset, motions)
    (value, (terms, pairs, visible)), (gradient, screen, turn) = gradients
    state = _optimise(state, gradient, turn, config)
    if statistics is not None:
        statistics = config.strategy.accumulate(statistics, screen, visible, cameras.width, cameras.height)
    terms = terms | {"loss": value}
    figures = {
        "terms": {name: total + terms[name] for name, total in figures["terms"].items()},
        "pairs": jnp.maximum(figures["pairs"], pairs),
    }
    return state.replace(statistics=statistics), figures


def _optimise(state: FitState, gradient, turn, config: FitConfig) -> FitState:
    """Adam on everything, then the noise of the strategy."""
    gaussians, first, second = optimizer.adam(
        state.gaussians,
        gradient,
        state.first_moments,
        state.second_moments,
        optimizer.rates(state, config),
        state.step,
    )
    cameras = state.poses
    if cameras is not None:
        # The first camera holds the world in place.
        turn = turn.at[0].set(0.0)
        last = 0.01 ** jnp.minimum(state.step / config.steps, 1.0)
        cameras = poses.Poses(
            *optimizer.adam(
                cameras.motions,
                turn,
                cameras.first_moments,
                cameras.second_moments,
                config.lr_poses * last,
                state.step,
            )
        )
    key = jax.random.fold_in(jax.random.fold_in(state.key, 5), state.step)
    means = config.strategy.perturb(key, gaussians, optimizer.means_rate(state, config))
    gaussians = gaussians.replace(means=means)
    return state.replace(
        gaussians=gaussians,
        first_moments=first,
        second_moments=second,
        poses=cameras,
        step=state.step + 1,
    )


def views_of_step(key: jax.Array, step: jax.Array, views: int, count: int) -> jax.Array:
    """Views [count] of a step: shuffled cycles through all of them, as a function of the key and the step."""
    draw = step * count + jnp.arange(count)
    cycles = jax.vmap(lambda cycle: jax.random.fold_in(jax.random.fold_in(key, 3), cycle))(draw // views)
    orders = jax.vmap(lambda cycle: jnp.argsort(jax.random.uniform(cycle, (views,))))(cycles)
    return jnp.take_along_axis(orders, (draw % views)[:, None], axis=1)[:, 0]
