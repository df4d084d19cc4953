"""Solver steps as pure functions of the samples and two noise levels: DPM-Solver++(2M) and Euler.

Both go from level s to a cleaner level t. Samplers take either one.
"""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from im3d_jax.diffusion.process import Level
from im3d_jax.typing import AnyArray, LeafArray, Placeholder


@flax.struct.dataclass
class History:
    """The evaluation before the current one."""

    x0: Float[LeafArray, "*shape"] | Placeholder
    """``[B, …]`` its estimate of the clean sample."""
    log_snr: Float[LeafArray, "*batch"] | Placeholder
    """Scalar half log-SNR of its level; -inf when there is no usable evaluation (start, or zero SNR)."""


def no_history(x: Float[AnyArray, "*shape"]) -> History:
    """History before the first step of a trajectory through ``x [B, …]``."""
    return History(jnp.zeros_like(x), jnp.asarray(-jnp.inf, jnp.promote_types(x.dtype, jnp.float32)))


def dpmpp_2m_step(
    x: Float[AnyArray, "*shape"], x0: Float[AnyArray, "*shape"], history: History, source: Level, target: Level
) -> tuple[Float[Array, "*shape"], History]:
    """One DPM-Solver++(2M) update from level ``source`` to the cleaner level ``target``.

    Source: Lu et al. 2211.01095, Proposition 4.1 (the probability-flow ODE in data prediction, exact up to an integral
    over lambda) and Algorithm 2 (the multistep method of second order). With h = lambda_t - lambda_s and the step
    before it h' = lambda_s - lambda_r,

        D   = x̂_s + h / (2 h') (x̂_s - x̂_r)
        x_t = sigma_t / sigma_s x_s - alpha_t (exp(-h) - 1) D

    The edges need no special caller: h is infinite when s has zero SNR or t is clean data, exp(-h) is then exactly 0,
    and the history is left out wherever h or h' is infinite. So the step out of pure noise is x_t = sigma_t x_s +
    alpha_t x̂_s, the step after it has no history, and the step into sigma = 0 returns x̂_s.

    Args:
        x: ``[B, …]`` sample at ``source``.
        x0: ``[B, …]`` the denoiser's estimate of the clean sample at (x, source).
        history: The evaluation before this one, or ``no_history(x)``.
        source: Scalar level of ``x``; sigma > 0. Its SNR may be zero.
        target: Scalar level to reach; sigma may be 0 (then the result is alpha x0).

    Returns:
        The sample at ``target`` in x's dtype, and the history for the next step.
    """
    step = target.log_snr - source.log_snr
    previous_step = source.log_snr - history.log_snr
    usable = jnp.isfinite(step) & jnp.isfinite(previous_step)
    # The inner where keeps inf / inf and inf - inf out of the gradient as well as out of the value.
    ratio = jnp.where(usable, step, 0.0) / (2 * jnp.where(usable, previous_step, 1.0))
    working = jnp.promote_types(x.dtype, jnp.float32)
    now, before = jnp.asarray(x0, working), history.x0.astype(working)
    slope = now + ratio.astype(working) * (now - before)
    keep = (target.sigma / source.sigma).astype(working)
    gain = (-target.alpha * jnp.expm1(-step)).astype(working)
    x_next = keep * jnp.asarray(x, working) + gain * slope
    return x_next.astype(x.dtype), History(jnp.asarray(x0, x.dtype), source.log_snr.astype(history.log_snr.dtype))


def euler_step(
    x: Float[AnyArray, "*shape"], x0: Float[AnyArray, "*shape"], history: History, source: Level, target: Level
) -> tuple[Float[Array, "*shape"], History]:
    """One Euler update of the probability-flow ODE in the variance-exploding form.

    Source: Karras et al. 2206.00364, Algorithm 1 without churn. On x / alpha with the noise scale s = sigma / alpha,
    from level s to level t: y_t = y_s + (s_t - s_s) (y_s - x̂_s) / s_s. Multiplied out for any process,

        x_t = k x_s + (alpha_t - k alpha_s) x̂_s,    k = sigma_t / sigma_s,

    which is regular at zero SNR (alpha_s = 0) and into clean data (sigma_t = 0, where it returns x̂_s). It is also DDIM
    without noise (Song et al. 2010.02502, eq. 12), and DPM-Solver++(2M) with its history left out.

    Arguments and results are those of ``dpmpp_2m_step``. The history is recorded and not used.
    """
    working = jnp.promote_types(x.dtype, jnp.float32)
    keep = (target.sigma / source.sigma).astype(working)
    gain = (target.alpha - keep * source.alpha).astype(working)
    x_next = keep * jnp.asarray(x, working) + gain * jnp.asarray(x0, working)
    return x_next.astype(x.dtype), History(jnp.asarray(x0, x.dtype), source.log_snr.astype(history.log_snr.dtype))
