"""Similarities of views to a text and to a picture by CLIP, with weights that the user gives.

A similarity is the cosine of the two projected features (Radford et al., arXiv 2103.00020, section 2.3), of pictures on
white that went through CLIP's own preprocessing. A set of views has the mean over its views, as in the columns of
table 1 of IM-3D (arXiv 2402.08682; hundredths there). Scores of different backbones cannot be compared, and papers
often do not name theirs: name the backbone beside every number.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.images.alpha import composite_on_white
from im3d_jax.models.calls import apply
from im3d_jax.models.clip import CLIPText, CLIPVision
from im3d_jax.models.clip_images import CLIP_MEAN, CLIP_STD, Colour, similarity_pixels
from im3d_jax.weights.prompt_tokenizers import PromptTokenizer


@dataclasses.dataclass(frozen=True)
class Clip:
    """Both towers of a CLIP model.

    Attributes:
        backbone: Its name for reports: kind, layers and width, patch, size of pictures, and the beginning of the
            weights' SHA-256.
        text, vision: The networks.
        text_params, vision_params: Their weights, float32.
        tokenizer: Of the text tower.
        mean, std: Of the colours in [0, 1] that the image tower was trained on.
    """

    backbone: str
    text: CLIPText
    vision: CLIPVision
    text_params: dict
    vision_params: dict
    tokenizer: PromptTokenizer
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Unit features [V, D] of pictures [V, H, W, 4] in [0, 1], straight alpha."""
        colours = self.mean, self.std
        return np.asarray(_image_features(self.vision, colours, self.vision_params, jnp.asarray(images)))

    def embed_text(self, text: str) -> np.ndarray:
        """Unit features [D]; the end of a text that is longer than the tower reads is cut off."""
        tokens, _ = self.tokenizer([text])
        return np.asarray(_text_features(self.text, self.text_params, jnp.asarray(tokens)))[0]

    def similarities(
        self, views: np.ndarray, *, prompt: str | None = None, image: np.ndarray | None = None
    ) -> dict[str, float]:
        """Mean similarities of views.

        Args:
            views: [V, H, W, 4] in [0, 1], straight alpha.
            prompt: Text to compare with, or None.
            image: [H, W, 4] picture to compare with, or None.

        Returns:
            `clip_text` and `clip_image` in [-1, 1], each only where there is something to compare with.
        """
        features = self.embed_images(views)
        others = {}
        if prompt is not None:
            others["clip_text"] = self.embed_text(prompt)
        if image is not None:
            others["clip_image"] = self.embed_images(image[None])[0]
        return {name: float(np.mean(features @ other, dtype=np.float64)) for name, other in others.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _image_features(vision: CLIPVision, colours: tuple[Colour, Colour], params: dict, images: jax.Array) -> jax.Array:
    pixels = similarity_pixels(composite_on_white(images)[..., :3], vision.config.image_size, *colours)
    # One after the other: towers are large, and so are their maps.
    return _unit(jax.lax.map(lambda one: apply(vision, params, one[None]).pooled[0], pixels))


@functools.partial(jax.jit, static_argnums=0)
def _text_features(text: CLIPText, params: dict, tokens: jax.Array) -> jax.Array:
    return _unit(apply(text, params, tokens).pooled)


def _unit(features: jax.Array) -> jax.Array:
    features = features.astype(jnp.float32)
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)
