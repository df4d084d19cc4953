"""Noise processes: how much signal and noise a sample holds at each time.

A noised sample is ``x_t = alpha(t) x_0 + sigma(t) eps`` with ``eps ~ N(0, 1)``. Time ``t`` runs over [0, 1]:
t = 0 is data, t = 1 is the noisiest level (pure noise where the terminal signal-to-noise ratio is zero).
``log_snr`` is the half log-SNR ``lambda = log(alpha / sigma)`` of the DPM-Solver papers; it is -inf where
alpha is 0 and +inf where sigma is 0. Times may be scalars or arrays of any shape; results have their shape
and at least float32.

Every process is a frozen dataclass of plain numbers: hashable (a static argument of ``jax.jit``) and a pytree
without leaves (an ordinary argument).
"""

import abc
import dataclasses
import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from im3d_jax.typing import AnyArray, LeafArray, Placeholder, Scalar, Times


@flax.struct.dataclass
class Level:
    """One noise level; all fields share one shape."""

    alpha: Float[LeafArray, "*times"] | Placeholder
    """Signal scale, in [0, 1]."""
    sigma: Float[LeafArray, "*times"] | Placeholder
    """Noise scale, non-negative."""
    log_snr: Float[LeafArray, "*times"] | Placeholder
    """lambda = log(alpha / sigma), -inf at alpha = 0, +inf at sigma = 0."""


def _as_float(value: Times) -> Float[Array, "*times"]:
    value = jnp.asarray(value)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


class NoiseProcess(abc.ABC):
    """A map from time to noise level, and back from log-SNR to time."""

    @abc.abstractmethod
    def level(self, t: Times) -> Level:
        """Noise level at time ``t`` in [0, 1]."""

    @abc.abstractmethod
    def level_of_lambda(self, log_snr: Times) -> Level:
        """Noise level whose half log-SNR is ``log_snr`` (may be infinite)."""

    @abc.abstractmethod
    def t_of_lambda(self, log_snr: Times) -> Float[Array, "*times"]:
        """Time in [0, 1] at which the half log-SNR is ``log_snr``: the inverse of ``log_snr(t)``."""

    def alpha(self, t: Times) -> Float[Array, "*times"]:
        """Signal scale at ``t``."""
        return self.level(t).alpha

    def sigma(self, t: Times) -> Float[Array, "*times"]:
        """Noise scale at ``t``."""
        return self.level(t).sigma

    def log_snr(self, t: Times) -> Float[Array, "*times"]:
        """Half log-SNR, log(alpha / sigma), at ``t``."""
        return self.level(t).log_snr


class VariancePreserving(NoiseProcess):
    """alpha² + sigma² = 1: the log-SNR alone fixes both scales."""

    def level_of_lambda(self, log_snr: Times) -> Level:
        log_snr = _as_float(log_snr)
        return Level(
            alpha=jnp.sqrt(jax.nn.sigmoid(2 * log_snr)),
            sigma=jnp.sqrt(jax.nn.sigmoid(-2 * log_snr)),
            log_snr=log_snr,
        )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Cosine(VariancePreserving):
    """Cosine schedule with exactly zero terminal SNR: lambda(t) = -log tan(pi t / 2) + shift.

    Without a shift alpha = cos(pi t / 2) and sigma = sin(pi t / 2) (Nichol & Dhariwal 2102.09672 without
    their offset); the shift of the log-SNR is that of Hoogeboom et al. 2301.11093.

    Attributes:
        shift: Added to the half log-SNR lambda. log(64 / d) is the paper's choice for images of side d;
            negative values spend more time at high noise.
    """

    shift: float = 0.0

    def __post_init__(self):
        if not math.isfinite(self.shift):
            raise ValueError(f"the log-SNR shift must be a finite number, got {self.shift}")

    def level(self, t: Times) -> Level:
        t = _as_float(t)
        # sin of the complement is exactly 0 at t = 1, where a float32 cos(pi / 2) is not.
        signal = jnp.sin(0.5 * jnp.pi * (1 - t)) * math.exp(0.5 * self.shift)
        noise = jnp.sin(0.5 * jnp.pi * t) * math.exp(-0.5 * self.shift)
        norm = jnp.sqrt(signal**2 + noise**2)
        return Level(signal / norm, noise / norm, jnp.log(signal) - jnp.log(noise))

    def t_of_lambda(self, log_snr: Times) -> Float[Array, "*times"]:
        return jnp.arctan(jnp.exp(self.shift - _as_float(log_snr))) * (2 / jnp.pi)


@functools.lru_cache(maxsize=8)
def _scaled_linear_angles(
    beta0: float, beta1: float, steps: int, zero_terminal_snr: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Angles (phi, pi/2 - phi), sigma = sin(phi) and alpha = cos(phi), at t = 0, 1/steps, …, 1: float64."""
    betas = np.linspace(math.sqrt(beta0), math.sqrt(beta1), steps, dtype=np.float64) ** 2
    alpha = np.sqrt(np.cumprod(1 - betas))
    if zero_terminal_snr:
        # Lin et al. 2305.08891, Algorithm 1: the first entry is kept, the last becomes 0.
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    alpha = np.concatenate([[1.0], alpha])
    signal_angle = np.arcsin(alpha)
    return np.arccos(alpha), signal_angle


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ScaledLinear(VariancePreserving):
    """Discrete table of Stable Diffusion and Emu Video ("quad" betas), continued between its entries.

    Table entry i (0-based, i < steps) sits at t = (i + 1) / steps; t = 0 is clean data. Between entries the
    angle arctan(sigma / alpha) is linear in t.

    Attributes:
        beta0: First variance increment; the square roots of the increments are evenly spaced.
        beta1: Last variance increment.
        steps: Number of table entries.
        zero_terminal_snr: Rescale so that alpha(1) = 0 exactly (Lin et al. 2305.08891, Algorithm 1).
    """

    beta0: float = 8.5e-4
    beta1: float = 1.2e-2
    steps: int = 1000
    zero_terminal_snr: bool = True

    def __post_init__(self):
        if not (0 < self.beta0 <= self.beta1 < 1 and self.steps >= 2):
            raise ValueError(
                "a scaled-linear table needs 0 < beta0 <= beta1 < 1 and steps >= 2, "
                f"got beta0={self.beta0}, beta1={self.beta1}, steps={self.steps}"
            )

    def _angles(self) -> tuple[np.ndarray, np.ndarray]:
        return _scaled_linear_angles(self.beta0, self.beta1, self.steps, self.zero_terminal_snr)

    def level(self, t: Times) -> Level:
        t = _as_float(t)
        noise_angle, signal_angle = self._angles()
        knots = jnp.asarray(np.linspace(0, 1, self.steps + 1), t.dtype)
        # Two tables, each exactly 0 at its own end: one angle and its cosine would lose alpha(1) = 0 to
        # rounding.
        sigma = jnp.sin(jnp.interp(t, knots, jnp.asarray(noise_angle, t.dtype)))
        alpha = jnp.sin(jnp.interp(t, knots, jnp.asarray(signal_angle, t.dtype)))
        return Level(alpha, sigma, jnp.log(alpha) - jnp.log(sigma))

    def t_of_lambda(self, log_snr: Times) -> Float[Array, "*times"]:
        log_snr = _as_float(log_snr)
        noise_angle, _ = self._angles()
        knots = jnp.asarray(np.linspace(0, 1, self.steps + 1), log_snr.dtype)
        return jnp.interp(jnp.arctan(jnp.exp(-log_snr)), jnp.asarray(noise_angle, log_snr.dtype), knots)


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

    The network counts its noise levels by timesteps 0..N-1. Timestep i is time t = (i + 1) / N, so that t = 0 is clean
    data, one step below timestep 0.

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

    def timestep(self, t: Times) -> Float[Array, "*times"]:
        """The network's timestep at time ``t``, -1 (clean) to N - 1; fractional between the levels."""
        t = jnp.asarray(t)
        return t.astype(jnp.promote_types(t.dtype, jnp.float32)) * self.steps - 1

    def level(self, t: Times) -> Level:
        timestep = self.timestep(t)
        table = jnp.asarray(_noise_to_signal(self.beta0, self.beta1, self.steps), timestep.dtype)
        ratio = jnp.interp(timestep, jnp.arange(-1, self.steps, dtype=timestep.dtype), table)
        norm = jnp.sqrt(1 + ratio**2)
        return Level(1 / norm, ratio / norm, -jnp.log(ratio))

    def t_of_lambda(self, log_snr: Times) -> Float[Array, "*times"]:
        ratio = jnp.exp(-jnp.asarray(log_snr))
        ratio = ratio.astype(jnp.promote_types(ratio.dtype, jnp.float32))
        table = jnp.asarray(_noise_to_signal(self.beta0, self.beta1, self.steps), ratio.dtype)
        return jnp.interp(ratio, table, jnp.arange(self.steps + 1, dtype=ratio.dtype) / self.steps)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Karras(NoiseProcess):
    """Variance-exploding process of EDM (Karras et al. 2206.00364, eq. 5), as in SVD and SV3D.

    alpha = 1 and sigma(t) = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho. Note that t
    = 0 is sigma_min, not clean data: samplers evaluate there (``time_grid(..., last=0.0)``) and return the
    estimate.

    Attributes:
        sigma_min: Noise scale at t = 0.
        sigma_max: Noise scale at t = 1.
        rho: Curvature of the schedule.
    """

    sigma_min: float = 0.002
    sigma_max: float = 700.0
    rho: float = 7.0

    def __post_init__(self):
        if not (0 < self.sigma_min < self.sigma_max < math.inf and self.rho > 0):
            raise ValueError(
                "an EDM process needs 0 < sigma_min < sigma_max and rho > 0, "
                f"got sigma_min={self.sigma_min}, sigma_max={self.sigma_max}, rho={self.rho}"
            )

    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def level(self, t: Times) -> Level:
        t = _as_float(t)
        low, high = self._roots()
        root = low + t * (high - low)
        return Level(jnp.ones_like(t), root**self.rho, -self.rho * jnp.log(root))

    def level_of_lambda(self, log_snr: Times) -> Level:
        log_snr = _as_float(log_snr)
        return Level(jnp.ones_like(log_snr), jnp.exp(-log_snr), log_snr)

    def t_of_lambda(self, log_snr: Times) -> Float[Array, "*times"]:
        low, high = self._roots()
        return (jnp.exp(-_as_float(log_snr) / self.rho) - low) / (high - low)


def expand(value: Num[Array, "..."], like: Num[AnyArray, "..."]) -> Num[Array, "..."]:
    """Appends axes of size 1 to ``value``, a scalar or ``[B, …]``, until it broadcasts with ``like``."""
    if value.ndim > like.ndim or value.shape != like.shape[: value.ndim]:
        raise ValueError(
            f"a time or weight of shape {value.shape} does not match samples of shape {like.shape}: "
            "give a scalar or one value for each sample, along the leading axes"
        )
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def add_noise(
    x0: Float[AnyArray, "*shape"], noise: Float[AnyArray, "*shape"], t: Times, process: NoiseProcess
) -> Float[Array, "*shape"]:
    """Noises clean samples to time ``t``: alpha(t) x0 + sigma(t) noise.

    Args:
        x0: ``[B, …]`` clean samples.
        noise: Standard normal, same shape.
        t: Scalar or ``[B]``, in [0, 1].
        process: The noise process.

    Returns:
        Noised samples in x0's shape and dtype.
    """
    if x0.shape != noise.shape:
        raise ValueError(f"noise of shape {noise.shape} does not match samples of shape {x0.shape}")
    return _mixed(x0, noise, t, process)


@jax.jit
def _mixed(
    x0: Float[AnyArray, "*shape"], noise: Float[AnyArray, "*shape"], t: Times, process: NoiseProcess
) -> Float[Array, "*shape"]:
    level = process.level(t)
    working = jnp.promote_types(x0.dtype, jnp.float32)
    mixed = expand(level.alpha, x0) * jnp.asarray(x0, working) + expand(level.sigma, x0) * jnp.asarray(noise, working)
    return mixed.astype(x0.dtype)


def initial_sample(
    noise: Float[AnyArray, "*shape"], t: Scalar, process: NoiseProcess, *, unit_data: bool = True
) -> Float[Array, "*shape"]:
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
    return (jnp.asarray(noise, jnp.promote_types(noise.dtype, jnp.float32)) * scale).astype(noise.dtype)
