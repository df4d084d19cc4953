"""Adam with a rate for each group of parameters (Kingma & Ba 2015, algorithm 1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from im3d_jax.reconstruction.presets import FitConfig
from im3d_jax.reconstruction.state import FitState


ADAM_DECAY = (0.9, 0.999)
ADAM_EPS = 1e-15


class Rates(NamedTuple):
    """Learning rates of the groups of `splat.Gaussians`, in their order, each broadcastable to its group."""

    means: jax.Array
    quats: float
    log_scales: float
    opacity_logits: float
    sh: jax.Array


def means_rate(state: FitState, config: FitConfig) -> jax.Array:
    """Rate [] of the means at the state's step, in world units."""
    first, last = config.lr_means
    progress = jnp.minimum(state.step / config.steps, 1.0)
    return state.extent * first * (last / first) ** progress


def rates(state: FitState, config: FitConfig) -> Rates:
    """Learning rates at the state's step."""
    means = means_rate(state, config)
    degree = jnp.floor(jnp.sqrt(jnp.arange(state.gaussians.sh.shape[1]) + 0.5))
    freed = state.step // config.sh_every if config.sh_every else config.sh_degree
    higher = jnp.where(degree <= freed, config.lr_sh / 20, 0.0)
    return Rates(
        means=means,
        quats=config.lr_quats,
        log_scales=config.lr_scales,
        opacity_logits=config.lr_opacities,
        sh=jnp.where(degree == 0, config.lr_sh, higher)[None, :, None],
    )


def adam(values: Any, gradient: Any, first: Any, second: Any, rate: Any, step: jax.Array) -> tuple[Any, Any, Any]:
    """One step.

    Args:
        values: What is optimised, a pytree.
        gradient: Of the loss by it.
        first: Running means of the gradients.
        second: Running means of their squares.
        rate: A pytree with a leaf for each of them in the same order, broadcastable to it.
        step: [] int32, steps done before this one.

    Returns:
        The new values, first and second moments.
    """
    decay_first, decay_second = ADAM_DECAY
    count = (step + 1).astype(jnp.float32)
    correct_first, correct_second = 1 - decay_first**count, 1 - decay_second**count
    first = jax.tree.map(lambda m, g: decay_first * m + (1 - decay_first) * g, first, gradient)
    second = jax.tree.map(lambda v, g: decay_second * v + (1 - decay_second) * g * g, second, gradient)

    def move(value, rate, m, v):
        return value - rate * (m / correct_first) / (jnp.sqrt(v / correct_second) + ADAM_EPS)

    groups = zip(*(jax.tree.leaves(tree) for tree in (values, rate, first, second)), strict=True)
    return jax.tree.unflatten(jax.tree.structure(values), [move(*group) for group in groups]), first, second
