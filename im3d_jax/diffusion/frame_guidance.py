"""Guidance with a scale for each frame: SVD's rises from the given frame, SV3D's is highest behind the object."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.diffusion.guidance import Network, guide
from im3d_jax.diffusion.prediction import Prediction, convert
from im3d_jax.diffusion.process import NoiseProcess


Curve = Literal["constant", "linear", "triangle"]


def frame_scales(curve: Curve, frames: int, low: float, high: float) -> np.ndarray:
    """Guidance scales of the frames, [frames] float32.

    Args:
        curve: ``constant``: high everywhere; ``linear``: low at the first frame to high at the last (SVD: 1 to 3);
            ``triangle``: low at both ends, high in the middle (SV3D: 1 to 2.5, in the network's order of frames).
        frames: Number of frames.
        low: Smallest scale.
        high: Largest scale; the triangle of an even number of frames stays just below it.

    Raises:
        ValueError: For an unknown curve or no frames.
    """
    if frames < 1:
        raise ValueError(f"guidance needs one frame or more, got {frames}")
    place = np.linspace(0, 1, frames)
    if curve == "constant":
        share = np.ones(frames)
    elif curve == "linear":
        share = place
    elif curve == "triangle":
        share = 2 * np.minimum(place, 1 - place)
    else:
        raise ValueError(f"unknown guidance curve {curve!r}: expected constant, linear or triangle")
    return (low + share * (high - low)).astype(np.float32)


def frame_guided_denoiser(
    network: Network, scales, process: NoiseProcess, prediction: Prediction
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """A sampler's denoiser with X(∅) + w_frame (X(I) - X(∅)); the companion of ``guided_denoiser``.

    Args:
        network: ``network(x [2 B, T, …], t scalar, index scalar) -> prediction``; rows 2 b and 2 b + 1 are sample b
            without and with its conditions, as ``stack_conditions`` lays them out for ``Guidance(image=…)``.
        scales: [T], from ``frame_scales``.
        process: The noise process.
        prediction: What the network predicts.

    Returns:
        ``denoise(x [B, T, …], t, index) -> x̂ [B, T, …]``.
    """

    def denoise(x, t, index):
        if len(scales) != x.shape[1]:
            raise ValueError(f"{len(scales)} guidance scales do not match samples of {x.shape[1]} frames")
        value = network(jnp.repeat(x, 2, axis=0), t, index)
        branches = value.reshape((x.shape[0], 2) + x.shape[1:])
        weights = jnp.asarray(scales, jnp.float32).reshape((1, -1) + (1,) * (x.ndim - 2))
        return convert(guide(branches, [weights], axis=1), x, t, process, prediction, "x0")

    return denoise
