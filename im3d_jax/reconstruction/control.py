"""The density control of a fit: which strategy acts at which step, and what becomes of the moments."""

from functools import partial

import jax
import jax.numpy as jnp

from im3d_jax.reconstruction.presets import FitConfig
from im3d_jax.reconstruction.state import FitState
from splat import density, mcmc


def densifies(step: int, config: FitConfig) -> bool:
    """Whether the density control acts before this step."""
    inside = config.densify_from <= step < min(config.densify_until, config.steps)
    return inside and step > 0 and step % config.densify_every == 0


def resets(step: int, config: FitConfig) -> bool:
    """Whether the opacities are reset before this step."""
    if not config.reset_opacity_every or config.strategy != "default":
        return False
    return 0 < step < config.densify_until and step % config.reset_opacity_every == 0


def act(state: FitState, step: int, config: FitConfig) -> FitState:
    """What the strategy does before step number `step`, which is the state's; outside jit."""
    if densifies(step, config):
        state = densify(state, config)
    if resets(step, config):
        state = reset_opacities(state)
    return state


@partial(jax.jit, static_argnames="config")
def densify(state: FitState, config: FitConfig) -> FitState:
    """One call of the strategy; rows that hold another gaussian than before start without moments."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
    if config.strategy == "mcmc":
        grown = mcmc.refine(key, state.gaussians, state.active, config.mcmc)
    else:
        grown = density.densify(key, state.gaussians, state.active, state.statistics, config.density, state.extent)

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
def reset_opacities(state: FitState) -> FitState:
    """All opacities lowered to at most 0.01, their moments forgotten."""
    logits = density.reset_opacities(state.gaussians.opacity_logits)
    none = jnp.zeros_like(logits)
    return state.replace(
        gaussians=state.gaussians.replace(opacity_logits=logits),
        first_moments=state.first_moments.replace(opacity_logits=none),
        second_moments=state.second_moments.replace(opacity_logits=none),
    )
