"""The density control of a fit: at which steps its strategy acts, and what becomes of the moments."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp

from im3d_jax.reconstruction.presets import FitConfig
from im3d_jax.reconstruction.state import FitState
from splat.strategies import DefaultStrategy, Strategy


def densifies(step: int, config: FitConfig) -> bool:
    """Whether the strategy refines the gaussians before this step."""
    inside = config.densify_from <= step < min(config.densify_until, config.steps)
    return inside and step > 0 and step % config.densify_every == 0


def resets(step: int, config: FitConfig) -> bool:
    """Whether the opacities are reset before this step."""
    return step < config.densify_until and config.strategy.resets_opacities(step)


def act(state: FitState, step: int, config: FitConfig) -> FitState:
    """What the strategy does before step number `step`, which is the state's; outside jit.

    Fits that started on a hull stay as they are, see `HullStart`. Around a whole scene gaussians may be large.
    """
    if bool(state.hull):
        return state
    if bool(state.scene) and isinstance(config.strategy, DefaultStrategy):
        config = dataclasses.replace(config, strategy=dataclasses.replace(config.strategy, max_scale=math.inf))
    if densifies(step, config):
        state = densify(state, config)
    if resets(step, config):
        state = reset_opacities(state, config.strategy)
    return state


@partial(jax.jit, static_argnames="config")
def densify(state: FitState, config: FitConfig) -> FitState:
    """One refinement by the strategy; rows that hold another gaussian than before start without moments."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
    refined = config.strategy.refine(key, state.gaussians, state.active, state.statistics, state.extent)

    def clear(moment: jax.Array) -> jax.Array:
        return jnp.where(refined.fresh.reshape((-1,) + (1,) * (moment.ndim - 1)), 0.0, moment)

    return state.replace(
        gaussians=refined.gaussians,
        active=refined.active,
        first_moments=jax.tree.map(clear, state.first_moments),
        second_moments=jax.tree.map(clear, state.second_moments),
        statistics=config.strategy.init_statistics(config.capacity),
    )


@partial(jax.jit, static_argnames="strategy")
def reset_opacities(state: FitState, strategy: Strategy) -> FitState:
    """Opacities as the strategy resets them, their moments forgotten."""
    logits = strategy.reset_opacities(state.gaussians.opacity_logits)
    none = jnp.zeros_like(logits)
    return state.replace(
        gaussians=state.gaussians.replace(opacity_logits=logits),
        first_moments=state.first_moments.replace(opacity_logits=none),
        second_moments=state.second_moments.replace(opacity_logits=none),
    )
