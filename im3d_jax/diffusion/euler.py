"""The Euler step of the probability-flow ODE in the variance-exploding form, and its starting noise.

Source: Karras et al. 2206.00364, Algorithm 1 without churn. On x / alpha with the noise scale s = sigma / alpha, from
level s to level t: y_t = y_s + (s_t - s_s) (y_s - x̂_s) / s_s. Multiplied out for any process,

    x_t = k x_s + (alpha_t - k alpha_s) x̂_s,    k = sigma_t / sigma_s,

which is regular at zero SNR (alpha_s = 0) and into clean data (sigma_t = 0, where it returns x̂_s). It is also DDIM
without noise (Song et al. 2010.02502, eq. 12), and DPM-Solver++(2M) with its history left out.
"""

import jax
import jax.numpy as jnp

from im3d_jax.diffusion.process import Level, NoiseProcess
from im3d_jax.diffusion.solver import History


def euler_step(
    x: jax.Array, x0: jax.Array, history: History, source: Level, target: Level
) -> tuple[jax.Array, History]:
    """One Euler update; arguments and results as those of ``dpmpp_2m_step``, in whose place samplers take it.

    The history is recorded and not used.
    """
    working = jnp.promote_types(x.dtype, jnp.float32)
    keep = (target.sigma / source.sigma).astype(working)
    gain = (target.alpha - keep * source.alpha).astype(working)
    x_next = keep * x.astype(working) + gain * x0.astype(working)
    return x_next.astype(x.dtype), History(x0.astype(x.dtype), source.log_snr.astype(history.log_snr.dtype))


def initial_sample(noise: jax.Array, t, process: NoiseProcess, *, unit_data: bool = True) -> jax.Array:
    """Where sampling from pure noise starts.

    Args:
        noise: ``[B, …]`` standard normal.
        t: Scalar time of the first evaluation.
        process: The noise process.
        unit_data: As if the data behind the noise had unit variance: noise · sqrt(alpha² + sigma²), which is the noise
            itself for a variance-preserving process. So do Stability AI's samplers and diffusers' "leading" spacing
            (700.0007 for SVD). Otherwise noise · sigma, diffusers' "linspace" and "trailing".

    Returns:
        ``[B, …]`` samples in the noise's dtype.
    """
    level = process.level(t)
    scale = jnp.sqrt(level.alpha**2 + level.sigma**2) if unit_data else level.sigma
    return (noise.astype(jnp.promote_types(noise.dtype, jnp.float32)) * scale).astype(noise.dtype)
