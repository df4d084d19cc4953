"""Elevation of an orbit from CLIP features of its views: a linear head, fitted with the user's own weights.

IM-3D (arXiv 2402.08682, appendix A.1) averages image features of four evenly spaced frames and regresses the elevation.
Here the features are those of the image encoder that SVD and SV3D carry, and the regression is a ridge in closed form:
`experiments.train_clip_elevation` fits it on Toybox renders.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.errors import WeightsError
from im3d_jax.images.alpha import composite
from im3d_jax.models.calls import apply
from im3d_jax.models.clip import CLIPVision
from im3d_jax.models.clip_images import condition_pixels
from im3d_jax.pipelines.sources import CheckpointSource
from im3d_jax.weights.tensor_files import file_metadata
from im3d_jax.weights.trees import load_safetensors, save_safetensors


FRAMES = 4
KIND = "im3d elevation head 1"
# How far the search may go from an estimate: renders of toys say little about other pictures, so not too near.
REACH, REACH_ERRORS = math.radians(10.0), 4.0


@dataclasses.dataclass(frozen=True)
class Head:
    """A linear map from `pooled_features` to radians.

    Attributes:
        weight: [D] float32.
        bias: Radians.
        encoder: `weights.encoders.encoder_fingerprint` of the encoder whose features it reads.
        lowest, highest: Elevations that it was fitted on, radians; estimates stay between them.
        error: Mean absolute error on held-out renders, radians.
    """

    weight: np.ndarray
    bias: float
    encoder: str
    lowest: float
    highest: float
    error: float

    @property
    def reach(self) -> float:
        """How far from an estimate the search may go, radians."""
        return max(REACH, REACH_ERRORS * self.error)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Elevations [...] in radians of features [..., D]."""
        return np.clip(features @ self.weight + self.bias, self.lowest, self.highest)


@functools.partial(jax.jit, static_argnums=0)
def pooled_features(encoder: CLIPVision, params: dict, views: jax.Array) -> jax.Array:
    """Mean of the unit image embeddings of four frames, which forgets where an orbit starts and how it turns.

    Args:
        encoder: The image encoder.
        params: Its parameters.
        views: [V, H, W, 4] an orbit's views in [0, 1], straight alpha; frames round(i V / 4) are read.

    Returns:
        [D] float32.
    """
    chosen = np.round(np.arange(FRAMES) * len(views) / FRAMES).astype(int)
    pixels = condition_pixels(composite(views[chosen]), encoder.config.image_size)
    embeddings = apply(encoder, params, pixels).pooled.astype(jnp.float32)
    return (embeddings / jnp.linalg.norm(embeddings, axis=-1, keepdims=True)).mean(0)


def fit_ridge(features: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Ridge regression whose penalty has the least leave-one-out error, both in closed form.

    The residual without sample i is e_i / (1 - h_i), h the diagonal of the hat matrix (Golub, Heath and Wahba 1979).

    Args:
        features: [N, D].
        values: [N].

    Returns:
        (weight [D] float32, bias): values are about features @ weight + bias.
    """
    features, values = features.astype(np.float64), values.astype(np.float64)
    centre, level = features.mean(0), values.mean()
    left, scale, right = np.linalg.svd(features - centre, full_matrices=False)
    along = left.T @ (values - level)
    best = math.inf, np.zeros_like(along)
    for penalty in scale[0] ** 2 * np.logspace(-9, 1, 41):
        kept = scale**2 / (scale**2 + penalty)
        left_out = (values - level - left @ (kept * along)) / (1.0 - left**2 @ kept - 1.0 / len(values))
        best = min(best, (float(np.mean(left_out**2)), scale / (scale**2 + penalty) * along), key=lambda each: each[0])
    weight = (best[1] @ right).astype(np.float32)
    return weight, float(level - centre @ weight)


def save_head(path: str | os.PathLike, head: Head) -> None:
    """Writes a head atomically; its folder is made if need be."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    numbers = {name: repr(float(getattr(head, name))) for name in ("bias", "lowest", "highest", "error")}
    save_safetensors(path, {"weight": head.weight}, {"kind": KIND, "encoder": head.encoder, **numbers})


def load_head(path: str | os.PathLike, encoder: str) -> Head:
    """Reads a head that was fitted with this encoder.

    Raises:
        WeightsError: One line: missing, damaged, no such head, or one of another encoder.
    """
    path = pathlib.Path(path)
    again = "fit it again (python -m experiments.train_clip_elevation), or remove it"
    tensors, fields = load_safetensors(path), file_metadata(path)
    if fields.get("kind") != KIND or set(tensors) != {"weight"}:
        raise WeightsError(
            f"{path} is not an elevation head: expected one tensor `weight` and the kind {KIND!r}; {again}"
        )
    if fields.get("encoder") != encoder:
        raise WeightsError(
            f"{path} was fitted with another image encoder ({str(fields.get('encoder'))[:12]}) than the model's "
            f"({encoder[:12]}); {again}"
        )
    try:
        numbers = {name: float(fields[name]) for name in ("bias", "lowest", "highest", "error")}
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path} lacks a number in its header ({error}); {again}") from error
    weight = tensors["weight"]
    finite = weight.dtype == np.float32 and np.isfinite(weight).all() and np.isfinite(list(numbers.values())).all()
    if weight.ndim != 1 or not finite:
        raise WeightsError(
            f"{path} holds {weight.dtype} {list(weight.shape)} and {numbers}: expected finite float32 [D] and "
            f"finite numbers; {again}"
        )
    return Head(weight, encoder=encoder, **numbers)


def find_head(source: CheckpointSource) -> Head | None:
    """The head beside the weights of a source, or None where there is none.

    Raises:
        WeightsError: See `load_head`; or the head has another width than the encoder.
    """
    path, config = source.head_file, source.preset.image_encoder
    if config is None or not path.is_file():
        return None
    head = load_head(path, source.encoder_fingerprint())
    if head.weight.shape != (config.projection,):
        raise WeightsError(
            f"{path} reads {len(head.weight)} features, but the model's image encoder has {config.projection}: "
            "fit it again (python -m experiments.train_clip_elevation), or remove it"
        )
    return head
