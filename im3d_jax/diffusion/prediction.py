"""What a denoising network predicts, and the one converter between those quantities.

With ``x_t = alpha x_0 + sigma eps`` and ``n² = alpha² + sigma²``:

* ``x0``: the clean sample;
* ``eps``: the noise;
* ``v``: alpha eps - sigma x_0 (Salimans & Ho 2202.00512, section 4), for which
  x_0 = (alpha x_t - sigma v) / n² and eps = (sigma x_t + alpha v) / n²;
* ``edm_v``: the raw output F of the v-preconditioned EDM network of SVD and SV3D,
  x_0 = c_skip x_t + c_out F with c_skip = 1 / (sigma² + 1), c_out = -sigma / sqrt(sigma² + 1) at alpha = 1;
  in general F = v / n, so that it is plain ``v`` for a variance-preserving process. (The network's input is
  x_t / n.)
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from im3d_jax.diffusion.process import NoiseProcess, expand
from im3d_jax.typing import AnyArray, Times


Prediction = Literal["x0", "eps", "v", "edm_v"]


def prediction_target(
    x0: Float[AnyArray, "*shape"],
    noise: Float[AnyArray, "*shape"],
    t: Times,
    process: NoiseProcess,
    target: Prediction,
) -> Float[Array, "*shape"]:
    """The quantity a network is trained to predict, from clean sample and noise; regular at every t.

    Args:
        x0: ``[B, …]`` clean samples.
        noise: The standard normal noise in x_t, same shape.
        t: Scalar or ``[B]``, in [0, 1].
        process: The noise process.
        target: Which quantity.

    Returns:
        The target, ``[B, …]`` in x0's dtype.
    """
    _check(target)
    if target == "x0":
        return jnp.asarray(x0)
    if target == "eps":
        return jnp.asarray(noise, x0.dtype)
    alpha, sigma = _scales(x0, t, process)
    v = alpha * jnp.asarray(noise, alpha.dtype) - sigma * jnp.asarray(x0, alpha.dtype)
    if target == "edm_v":
        v = v / jnp.sqrt(alpha**2 + sigma**2)
    return v.astype(x0.dtype)


def convert_prediction(
    value: Float[AnyArray, "*shape"],
    x_t: Float[AnyArray, "*shape"],
    t: Times,
    process: NoiseProcess,
    source: Prediction,
    target: Prediction,
) -> Float[Array, "*shape"]:
    """Turns one kind of prediction about ``x_t`` into another.

    At zero terminal SNR (alpha = 0) x_t is pure noise, so that a prediction of eps says nothing about x_0:
    converting from ``eps`` there is an error, and so is converting from ``x0`` where sigma = 0. Both are
    raised when ``t`` is a concrete value; under ``jax.jit`` a traced ``t`` gives inf or NaN. ``v`` is regular
    everywhere: x_0 = -v at alpha = 0.

    Args:
        value: ``[B, …]`` prediction of kind ``source``.
        x_t: ``[B, …]`` noised sample.
        t: Scalar or ``[B]``, in [0, 1].
        process: The noise process.
        source: Kind of ``value``.
        target: Kind wanted.

    Returns:
        ``[B, …]`` in value's dtype.

    Raises:
        ValueError: For an unknown kind, unequal shapes, or a conversion that the noise level makes
            impossible.
    """
    _check(source)
    _check(target)
    if value.shape != x_t.shape:
        raise ValueError(f"a prediction of shape {value.shape} does not match samples of shape {x_t.shape}")
    if source == target:
        return jnp.asarray(value)
    _check_level(t, process, source)
    alpha, sigma = _scales(x_t, t, process)
    power = alpha**2 + sigma**2
    y, x = jnp.asarray(value, alpha.dtype), jnp.asarray(x_t, alpha.dtype)
    if source == "x0":
        x0, noise = y, (x - alpha * y) / sigma
    elif source == "eps":
        x0, noise = (x - sigma * y) / alpha, y
    else:
        v = y if source == "v" else y * jnp.sqrt(power)
        x0, noise = (alpha * x - sigma * v) / power, (sigma * x + alpha * v) / power
    if target == "eps":
        return noise.astype(value.dtype)
    return prediction_target(x0, noise, t, process, target).astype(value.dtype)


def _scales(x: Float[AnyArray, "..."], t: Times, process: NoiseProcess) -> tuple[jax.Array, jax.Array]:
    level = process.level(t)
    working = jnp.promote_types(x.dtype, level.alpha.dtype)
    return expand(level.alpha, x).astype(working), expand(level.sigma, x).astype(working)


def _check(kind: str) -> None:
    if kind not in get_args(Prediction):
        kinds = ", ".join(get_args(Prediction))
        raise ValueError(f"unknown kind of prediction {kind!r}: expected one of {kinds}")


def _check_level(t: Times, process: NoiseProcess, source: Prediction) -> None:
    if isinstance(t, Tracer) or source not in ("x0", "eps"):
        return
    with jax.ensure_compile_time_eval():
        level = process.level(t)
        no_signal, no_noise = bool((level.alpha == 0).any()), bool((level.sigma == 0).any())
    if source == "eps" and no_signal:
        raise ValueError(
            f"cannot convert a prediction of eps at t={t}: alpha is 0 there (zero terminal SNR), so the "
            "noise says nothing about the sample; use a network that predicts v or x0, or start below this t"
        )
    if source == "x0" and no_noise:
        raise ValueError(
            f"cannot convert a prediction of x0 at t={t}: sigma is 0 there, so the sample holds no noise to recover"
        )
