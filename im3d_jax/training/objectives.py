"""Denoising losses: at which times, against which target, and with which weight.

An objective gives one number for each example. What is random about an example follows from a key of its own, so that
neither accumulation nor the number of devices changes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp

from im3d_jax.diffusion import NoiseProcess, Prediction, add_noise, prediction_target


Metrics = dict[str, jax.Array]


class Objective(Protocol):
    """What a stage minimises."""

    def __call__(self, params: dict[str, Any], batch: dict[str, Any], keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """The loss of each example.

        Args:
            params: Nested parameters, those that are trained and those that are held.
            batch: Arrays with a leading axis of B examples.
            keys: [B] typed PRNG keys.

        Returns:
            [B] losses, and further figures [B] for the log.
        """
        ...


@dataclasses.dataclass(frozen=True)
class UniformTimes:
    """Times uniform in [0, 1], but for a share that is drawn from [1 - late, 1], where the layout is decided.

    Attributes:
        late_share: In [0, 1].
        late: Length of that last part.
    """

    late_share: float = 0.0
    late: float = 0.2

    def __call__(self, key: jax.Array, process: NoiseProcess) -> jax.Array:
        """A time []."""
        draw, choose = jax.random.split(key)
        time = jax.random.uniform(draw)
        late = jax.random.bernoulli(choose, self.late_share)
        return jnp.where(late, 1.0 - self.late + self.late * time, time)


@dataclasses.dataclass(frozen=True)
class LogNormalSigmas:
    """log(sigma / alpha) normal (Karras et al. 2206.00364, section 5); SVD-like networks are fine-tuned at (1.0, 1.6).

    Attributes:
        mean: Of log sigma.
        std: Of log sigma.
    """

    mean: float = 1.0
    std: float = 1.6

    def __call__(self, key: jax.Array, process: NoiseProcess) -> jax.Array:
        """A time [], inside of the process' range."""
        log_sigma = self.mean + self.std * jax.random.normal(key)
        return jnp.clip(process.t_of_lambda(-log_sigma), 0.0, 1.0)


Weighting = Literal["unit", "min_snr", "edm"]


@dataclasses.dataclass(frozen=True)
class Denoising:
    """The squared error of a network's own prediction, weighted by the noise level.

    Attributes:
        process: The noise process.
        prediction: What the network predicts.
        times: Draws a time from a key.
        weighting: ``unit``: of the prediction as it is, which for ``edm_v`` is EDM's weight lambda(sigma) on x0
            (Karras et al., table 1). ``min_snr``: weight min(SNR, 5) on x0 (Hang et al. 2303.09556, eq. 9). ``edm``:
            EDM's weight on x0 at unit data variance, for any prediction.
    """

    process: NoiseProcess
    prediction: Prediction
    times: Callable[[jax.Array, NoiseProcess], jax.Array] = UniformTimes()
    weighting: Weighting = "unit"

    def weight(self, time: jax.Array) -> jax.Array:
        """Factor [B] of the squared error of the prediction at times [B]."""
        if self.weighting == "unit":
            return jnp.ones_like(time)
        level = self.process.level(time)
        alpha, sigma = level.alpha, level.sigma
        power = alpha**2 + sigma**2
        # (x0's squared error) / (the prediction's), for equal noised samples.
        of_x0 = {
            "x0": jnp.ones_like(time),
            "eps": (sigma / alpha) ** 2,
            "v": (sigma / power) ** 2,
            "edm_v": sigma**2 / power,
        }[self.prediction]
        snr = (alpha / sigma) ** 2
        wanted = jnp.minimum(snr, 5.0) if self.weighting == "min_snr" else power / sigma**2
        return wanted * of_x0

    def __call__(
        self, predict: Callable[[jax.Array, jax.Array], jax.Array], clean: jax.Array, keys: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The loss of each example.

        Args:
            predict: ``predict(noised [B, ...], times [B]) -> prediction [B, ...]``.
            clean: [B, ...] clean samples.
            keys: [B] typed keys.

        Returns:
            [B] weighted means of the squared error, and [B] times.
        """
        split = jax.vmap(jax.random.split)(keys)
        times = jax.vmap(lambda key: self.times(key, self.process))(split[:, 0])
        noise = jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:]))(split[:, 1])
        return self.error(predict, clean, times, noise), times

    def error(
        self, predict: Callable[[jax.Array, jax.Array], jax.Array], clean: jax.Array, times: jax.Array, noise: jax.Array
    ) -> jax.Array:
        """The loss [B] at given times [B] and noise [B, ...]; evaluations fix both."""
        target = prediction_target(clean, noise, times, self.process, self.prediction)
        value = predict(add_noise(clean, noise, times, self.process), times)
        squared = jnp.square(value.astype(jnp.float32) - target.astype(jnp.float32))
        return self.weight(times) * squared.mean(tuple(range(1, clean.ndim)))


def drop_conditions(keys: jax.Array, drop: float) -> tuple[jax.Array, jax.Array]:
    """Which conditions examples lose, for nested guidance (Emu Video 2311.10709, section 3.2).

    Args:
        keys: [B] typed keys.
        drop: Share of the examples that lose the prompt alone, the picture alone, and both, each.

    Returns:
        [B] booleans each: no prompt, no picture.
    """
    lot = jax.vmap(jax.random.uniform)(keys)
    return (lot < drop) | (lot > 1 - drop), lot > 1 - 2 * drop
