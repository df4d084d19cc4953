"""Pictures against pictures: PSNR, SSIM, perceptual distances, and similarities by the user's weights."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.clip_folders import load_clip
from experiments.evaluation.clip_similarity import Clip
from im3d_jax.images import metrics
from im3d_jax.images.alpha import composite_on_white
from im3d_jax.models import lpips, perceptual
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.weights.lpips_weights import load_lpips


@dataclasses.dataclass(frozen=True)
class Judges:
    """Networks with weights of the user's, which measure beside the features of the model itself.

    Attributes:
        lpips: Parameters of `models.lpips`, or None.
        clip: For similarities to a text and to a picture, or None.
    """

    lpips: lpips.Params | None = None
    clip: Clip | None = None

    def similarities(self, views: np.ndarray, caption: str | None, image: np.ndarray) -> dict[str, float]:
        """Mean CLIP similarities of views [T, H, W, 4] but the first, which is given; empty without CLIP."""
        return {} if self.clip is None else self.clip.similarities(views[1:], prompt=caption, image=image)


def load_judges(clip: str | None, lpips_weights: str | None) -> tuple[Judges, dict[str, str]]:
    """Reads the weights of the judges.

    Args:
        clip: Folder of CLIP, or None.
        lpips_weights: Of LPIPS: files, or ``lpips-j``; or None.

    Returns:
        The judges, and what they are, for the settings of an evaluation.

    Raises:
        InputError: Weights that cannot be used.
    """
    names, towers, weights = {}, None, None
    if lpips_weights is not None:
        weights = load_lpips(lpips_weights)
        names["lpips_sha256"] = weights.sha256
    if clip is not None:
        towers = load_clip(clip)
        names["clip"] = towers.backbone
    return Judges(None if weights is None else weights.params, towers), names


def compare(
    features: Perceptual, made: np.ndarray, true: np.ndarray, *, skip: int = 0, weights: lpips.Params | None = None
) -> dict[str, float]:
    """Means over images of PSNR and foreground PSNR (dB), SSIM, perceptual distance and LPIPS, on white.

    Args:
        features: Network of the perceptual distance.
        made: [V, H, W, 4] in [0, 1], straight alpha.
        true: Images of the same shape; their alpha is the foreground's mask.
        skip: Images at the start that do not count.
        weights: Parameters of LPIPS, which is left out without them.
    """
    figures = _figures_of_images(features, jnp.asarray(made), jnp.asarray(true))
    if weights is not None:
        figures["lpips"] = lpips_of_images(weights, made, true)
    return {name: float(np.mean(np.asarray(values)[skip:], dtype=np.float64)) for name, values in figures.items()}


def perceptual_of_images(features: Perceptual, made: np.ndarray, true: np.ndarray) -> jax.Array:
    """Perceptual distances [V] of images [V, H, W, 4], straight alpha."""
    return _perceptual_of_images(features, jnp.asarray(made), jnp.asarray(true))


def lpips_of_images(weights: lpips.Params, made: np.ndarray, true: np.ndarray) -> jax.Array:
    """LPIPS [V] of images [V, H, W, 4] in [0, 1], straight alpha, on white."""
    return _lpips_of_images(weights, jnp.asarray(made), jnp.asarray(true))


@jax.jit
def _figures_of_images(features: Perceptual, made: jax.Array, true: jax.Array) -> dict[str, jax.Array]:
    made, true = composite_on_white(made), composite_on_white(true)
    shown, wanted = made[..., :3], true[..., :3]
    return {
        "psnr": metrics.psnr(shown, wanted),
        "foreground_psnr": metrics.foreground_psnr(shown, wanted, true[..., 3]),
        "ssim": metrics.ssim(shown, wanted),
        "perceptual": perceptual.distance(features.features(made), features.features(true), features.weights),
    }


@jax.jit
def _perceptual_of_images(features: Perceptual, made: jax.Array, true: jax.Array) -> jax.Array:
    made, true = composite_on_white(made), composite_on_white(true)
    return perceptual.distance(features.features(made), features.features(true), features.weights)


@jax.jit
def _lpips_of_images(weights: lpips.Params, made: jax.Array, true: jax.Array) -> jax.Array:
    pairs = tuple(composite_on_white(images)[:, None, ..., :3] for images in (made, true))
    # One pair after the other: VGG's first maps are many times as large as the pictures.
    return jax.lax.map(lambda pair: lpips.lpips(weights, *pair)[0], pairs)
