"""Stable Diffusion's discrete schedule as a noise process, and the times at which samplers evaluate it.

The network counts its noise levels by timesteps 0..N-1. Timestep i is our time t = (i + 1) / N, so that t = 0 is clean
data, one step below timestep 0.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.diffusion.process import Level, VariancePreserving


Spacing = Literal["leading", "trailing", "linspace"]


@functools.cache
def _noise_to_signal(beta0: float, beta1: float, steps: int) -> np.ndarray:
    """sigma / alpha at timesteps -1 (clean data) to steps - 1, float64."""
    betas = np.linspace(beta0**0.5, beta1**0.5, steps) ** 2
    power = np.cumprod(1 - betas)
    return np.append(0.0, np.sqrt((1 - power) / power))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class DiscreteScaledLinear(VariancePreserving):
    """Stable Diffusion's training schedule: sqrt(beta) linear in the timestep, without zero terminal SNR.

    Between timesteps sigma / alpha is linear, as in k-diffusion and diffusers' ``EulerDiscreteScheduler``, whose
    "linspace" spacing evaluates there (``ScaledLinear`` interpolates angles instead).

    Attributes:
        beta0: First beta.
        beta1: Last beta.
        steps: Number N of timesteps.
    """

    beta0: float = 8.5e-4
    beta1: float = 1.2e-2
    steps: int = 1000

    def __post_init__(self):
        if not (0 < self.beta0 <= self.beta1 < 1 and self.steps >= 2):
            raise ValueError(
                "a discrete schedule needs 0 < beta0 <= beta1 < 1 and steps >= 2, "
                f"got beta0={self.beta0}, beta1={self.beta1}, steps={self.steps}"
            )

    def timestep(self, t) -> jax.Array:
        """The network's timestep at time ``t``, -1 (clean) to N - 1; fractional between the levels."""
        t = jnp.asarray(t)
        return t.astype(jnp.promote_types(t.dtype, jnp.float32)) * self.steps - 1

    def level(self, t) -> Level:
        timestep = self.timestep(t)
        table = jnp.asarray(_noise_to_signal(self.beta0, self.beta1, self.steps), timestep.dtype)
        ratio = jnp.interp(timestep, jnp.arange(-1, self.steps, dtype=timestep.dtype), table)
        norm = jnp.sqrt(1 + ratio**2)
        return Level(1 / norm, ratio / norm, -jnp.log(ratio))

    def t_of_lambda(self, log_snr) -> jax.Array:
        ratio = jnp.exp(-jnp.asarray(log_snr))
        ratio = ratio.astype(jnp.promote_types(ratio.dtype, jnp.float32))
        table = jnp.asarray(_noise_to_signal(self.beta0, self.beta1, self.steps), ratio.dtype)
        return jnp.interp(ratio, table, jnp.arange(self.steps + 1, dtype=ratio.dtype) / self.steps)


def timestep_grid(
    steps: int, process: DiscreteScaledLinear, *, spacing: Spacing = "leading", offset: int = 0
) -> np.ndarray:
    """Times at which diffusers' schedulers evaluate, ``[steps + 1]`` float32, decreasing, ending with 0.

    Image-to-image starts part-way: take the tail of the grid from the wanted noise level on.

    Args:
        steps: Number of evaluations, 1..N.
        process: The schedule.
        spacing: ``leading``: multiples of N // steps from ``offset`` up (PNDM and DDIM as Stable Diffusion 1.5 and 2.1
            are configured: offset 1); ``trailing``: from N - 1 down; ``linspace``: from N - 1 to 0, fractional (Euler
            on those configurations, which name no spacing). Lin et al. 2305.08891, table 2.
        offset: Added to every timestep of ``leading``.

    Raises:
        ValueError: For an unknown spacing, or timesteps that the network does not have.
    """
    count = process.steps
    if not 1 <= steps <= count:
        raise ValueError(f"a discrete schedule of {count} timesteps allows 1 to {count} evaluations, got steps={steps}")
    if spacing == "leading":
        timesteps = np.arange(steps)[::-1] * (count // steps) + offset
    elif spacing == "trailing":
        timesteps = np.round(count - np.arange(steps) * (count / steps)) - 1
    elif spacing == "linspace":
        timesteps = np.linspace(0, count - 1, steps)[::-1]
    else:
        raise ValueError(f"unknown spacing {spacing!r}: expected leading, trailing or linspace")
    if timesteps[0] > count - 1 or timesteps[-1] < 0:
        raise ValueError(
            f"{steps} evaluations with offset={offset} reach timestep {timesteps[0]:.0f}, but the last is {count - 1}: "
            "take fewer steps or a smaller offset"
        )
    return np.append((timesteps + 1) / count, 0.0).astype(np.float32)
