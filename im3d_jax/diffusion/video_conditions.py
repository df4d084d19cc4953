"""Conditions of SVD and SV3D besides the image's embedding, and the place of the given view among the frames.

Sources: diffusers' ``StableVideoDiffusionPipeline``, Stability AI's ``simple_video_sample.py`` (generative-models). The
embedding of the *clean* image is the cross-attention context; the autoencoder's *unscaled* mode of the *noised* image
is concatenated to every frame. Without condition both are zero, and the scalars stay.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from im3d_jax.typing import AnyArray


GivenView = Literal["first", "last"]


def augment_image(
    image: Float[AnyArray, "batch height width 3"], noise: Float[AnyArray, "batch height width 3"], strength: float
) -> Float[Array, "batch height width 3"]:
    """The noised condition that is encoded, image + strength / 2 · noise.

    Args:
        image: [B, H, W, 3] in [0, 1].
        noise: Standard normal, same shape.
        strength: Standard deviation on the scale of [-1, 1], as published: 0.02 for SVD, 1e-5 for SV3D; the network is
            told it by the scalar conditions.

    Returns:
        [B, H, W, 3], not clipped.
    """
    if image.shape != noise.shape:
        raise ValueError(f"noise of shape {noise.shape} does not match an image of shape {image.shape}")
    return jnp.asarray(image) + 0.5 * strength * jnp.asarray(noise, image.dtype)


def svd_vector(
    batch: int, *, fps: float = 7, motion: float = 127, strength: float = 0.02
) -> Float[np.ndarray, "{batch} 3"]:
    """SVD's scalar conditions (frames a second less one, motion bucket, noise strength), [batch, 3] float32."""
    return np.tile(np.array([fps - 1, motion, strength], np.float32), (batch, 1))


def sv3d_vector(batch: int, *, strength: float = 1e-5) -> Float[np.ndarray, "{batch} 1"]:
    """SV3D_u's scalar condition (noise strength), [batch, 1] float32."""
    return np.full((batch, 1), strength, np.float32)


def sv3d_pose_vector(
    elevations: Float[AnyArray, "batch frames"], azimuths: Float[AnyArray, "batch frames"], *, strength: float = 1e-5
) -> Float[np.ndarray, "batch frames 3"]:
    """SV3D_p's scalar conditions (noise strength, polar angle, azimuth), [B, T, 3] float32.

    Args:
        elevations: [B, T] radians above the horizon, in the network's order: the given view last.
        azimuths: [B, T] radians in SV3D's direction of turning; only differences to the last frame count.
        strength: Noise strength of the condition.
    """
    elevations, azimuths = np.broadcast_arrays(np.asarray(elevations, float), np.asarray(azimuths, float))
    if elevations.ndim != 2:
        raise ValueError(f"elevations and azimuths must be [B, T], got shape {elevations.shape}")
    turned = np.mod(azimuths - azimuths[:, -1:], 2 * np.pi)
    parts = [np.full_like(elevations, strength), np.pi / 2 - elevations, turned]
    return np.stack(parts, axis=-1).astype(np.float32)


def sv3d_orbit(frames: int = 21) -> Float[np.ndarray, " {frames}"]:
    """Azimuths of SV3D's orbit in radians, [frames] float64: even steps from the first one to 0, the given view."""
    return np.mod(2 * np.pi * np.arange(1, frames + 1) / frames, 2 * np.pi)


def concatenate_condition(
    x: Float[AnyArray, "batch frames height width z"], latent: Float[AnyArray, "batch height width z"]
) -> Float[Array, "batch frames height width 2*z"]:
    """Scaled samples [B, T, h, w, z] and the condition's latent [B, h, w, z] behind them, [B, T, h, w, 2 z]."""
    if latent.shape != x.shape[:1] + x.shape[2:]:
        raise ValueError(f"a condition of shape {latent.shape} does not match frames of shape {x.shape}")
    repeated = jnp.broadcast_to(latent[:, None].astype(x.dtype), x.shape)
    return jnp.concatenate([x, repeated], axis=-1)


def to_network_order(frames: Shaped[AnyArray, "*shape"], given: GivenView, *, axis: int = 1) -> Shaped[Array, "*shape"]:
    """Orbit order (the given view first) to the network's: one step of the ring when it has the given view last."""
    return jnp.roll(frames, -_shift(given), axis)


def from_network_order(
    frames: Shaped[AnyArray, "*shape"], given: GivenView, *, axis: int = 1
) -> Shaped[Array, "*shape"]:
    """The inverse of ``to_network_order``."""
    return jnp.roll(frames, _shift(given), axis)


def _shift(given: GivenView) -> int:
    if given not in ("first", "last"):
        raise ValueError(f"the given view is {given!r}, expected first or last")
    return int(given == "last")
