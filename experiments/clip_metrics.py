"""Similarities of views to a text and to a picture by CLIP, with weights that the user gives.

Scores of different backbones cannot be compared, and papers often do not name theirs: the backbone belongs beside every
number. Here a similarity is the cosine of the two projected features (Radford et al. 2103.00020, section 2.3), on
pictures composited on white and prepared as CLIP's own preprocessing does; a set of views has the mean over its views
(the columns of table 1 of IM-3D, 2402.08682, in hundredths there).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.errors import InputError, input_errors
from im3d_jax.images.alpha import composite_on_white
from im3d_jax.models.clip import CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig
from im3d_jax.models.clip_images import CLIP_MEAN, CLIP_STD, Colour, similarity_pixels
from im3d_jax.output.run_folder import file_hash
from im3d_jax.errors import WeightsError
from im3d_jax.weights.encoders import load_encoder
from im3d_jax.weights.prompt_tokenizers import PromptTokenizer, load_clip_tokenizer
from im3d_jax.weights.tensor_files import network_files


@dataclasses.dataclass(frozen=True)
class Clip:
    """Both towers of a CLIP model.

    Attributes:
        backbone: its name for reports: kind, layers and width, patch, size of pictures, and the beginning of the
            weights' SHA-256.
        text, vision: the networks.
        text_params, vision_params: their weights, float32.
        tokenizer: of the text tower.
        mean, std: of the colours in [0, 1] that the image tower was trained on.
    """

    backbone: str
    text: CLIPText
    vision: CLIPVision
    text_params: dict
    vision_params: dict
    tokenizer: PromptTokenizer
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    def embed_images(self, images) -> np.ndarray:
        """Unit features [V, D] of pictures [V, H, W, 4] in [0, 1], straight alpha."""
        colours = self.mean, self.std
        return np.asarray(_image_features(self.vision, colours, self.vision_params, jnp.asarray(images)))

    def embed_text(self, text: str) -> np.ndarray:
        """Unit features [D]; what does not fit into the tower's length is cut off."""
        tokens, _ = self.tokenizer([text])
        return np.asarray(_text_features(self.text, self.text_params, jnp.asarray(tokens)))[0]

    def similarities(self, views, *, prompt: str | None = None, image=None) -> dict[str, float]:
        """Mean similarities of views.

        Args:
            views: [V, H, W, 4] in [0, 1], straight alpha.
            prompt: text to compare with, or None.
            image: [H, W, 4] picture to compare with, or None.

        Returns:
            `clip_text` and `clip_image`, of those that are given, in [-1, 1].
        """
        features = self.embed_images(views)
        others = {}
        if prompt is not None:
            others["clip_text"] = self.embed_text(prompt)
        if image is not None:
            others["clip_image"] = self.embed_images(np.asarray(image)[None])[0]
        return {name: float(np.mean(features @ other, dtype=np.float64)) for name, other in others.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _image_features(vision: CLIPVision, colours: tuple[Colour, Colour], params: dict, images: jax.Array) -> jax.Array:
    pixels = similarity_pixels(composite_on_white(images)[..., :3], vision.config.image_size, *colours)
    # One after the other: towers are large, and so are their maps.
    return _unit(jax.lax.map(lambda one: vision.apply({"params": params}, one[None]).pooled[0], pixels))


@functools.partial(jax.jit, static_argnums=0)
def _text_features(text: CLIPText, params: dict, tokens: jax.Array) -> jax.Array:
    return _unit(text.apply({"params": params}, tokens).pooled)


def _unit(features: jax.Array) -> jax.Array:
    features = features.astype(jnp.float32)
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


def load_clip(folder: str | pathlib.Path) -> Clip:
    """Reads CLIP from a folder.

    Args:
        folder: with `config.json` and `model.safetensors` (transformers: openai/clip-vit-large-patch14 and others), or
            with `open_clip_config.json` and `open_clip_model.safetensors` (OpenCLIP); either with the tokenizer's
            files beside them. Where both are, the first is read. Mean and deviation of the colours are those of
            `preprocessor_config.json` or of OpenCLIP's `preprocess_cfg`, or CLIP's own without them.

    Raises:
        InputError: something is missing, damaged, or of a kind that is not read.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"--clip={folder}: no such folder; expected one with CLIP's config.json, weights and tokenizer"
        )
    theirs, open_clip = folder / "config.json", folder / "open_clip_config.json"
    # OpenCLIP's weights may carry a config.json of nothing that is of use.
    if _holds(theirs, "vision_config"):
        name, text, vision = _transformers(theirs)
        weights = _weights(folder, "model")
    elif open_clip.is_file():
        name, text, vision = _open_clip(open_clip)
        weights = _weights(folder, "open_clip_model")
    else:
        raise InputError(
            f"--clip={folder}: neither a config.json of CLIP nor an open_clip_config.json; expected a folder such as "
            "openai/clip-vit-large-patch14 on the hub"
        )
    mean, std = _colours(folder, vision.image_size, open_clip_first=name == "OpenCLIP")
    with input_errors(WeightsError):
        tokenizer = load_clip_tokenizer(folder, text.length)
        # The first token after the start of an empty text.
        text = dataclasses.replace(text, end_token=int(tokenizer([""])[0][0, 1]))
        towers = load_encoder(weights, text), load_encoder(weights, vision)
        files = network_files(weights) if weights.is_dir() else [weights]
    sizes = f"{vision.layers} layers of {vision.width}, {vision.patch}px patches at {vision.image_size}px"
    backbone = f"{name} ViT, {sizes}, SHA-256 {_hash(files)[:12]}"
    return Clip(backbone, CLIPText(text), CLIPVision(vision), *towers, tokenizer, mean, std)


def _hash(files: list[pathlib.Path]) -> str:
    """SHA-256 of a file, or of what `sha256sum` prints for several."""
    if len(files) == 1:
        return file_hash(files[0])
    listing = "".join(f"{file_hash(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _weights(folder: pathlib.Path, stem: str) -> pathlib.Path:
    file = folder / f"{stem}.safetensors"
    return file if file.is_file() else folder


def _holds(path: pathlib.Path, field: str) -> bool:
    return path.is_file() and field in _read_json(path)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy it again") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no JSON object; copy it again")
    return data


# What transformers takes for fields that a file leaves out.
_TEXT_DEFAULTS = {
    "vocab_size": 49408, "max_position_embeddings": 77, "hidden_size": 512, "num_hidden_layers": 12,
    "num_attention_heads": 8, "intermediate_size": 2048, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
_VISION_DEFAULTS = {
    "image_size": 224, "patch_size": 32, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
_OURS = {
    "vocab_size": "vocabulary", "max_position_embeddings": "length", "hidden_size": "width",
    "num_hidden_layers": "layers", "num_attention_heads": "heads", "intermediate_size": "hidden",
    "hidden_act": "activation", "layer_norm_eps": "eps", "patch_size": "patch",
}  # fmt: skip


def _transformers(path: pathlib.Path) -> tuple[str, CLIPTextConfig, CLIPVisionConfig]:
    data = _read_json(path)
    projection = data.get("projection_dim", 512)
    configs = []
    for kind, defaults, part in (
        (CLIPTextConfig, _TEXT_DEFAULTS, "text_config"),
        (CLIPVisionConfig, _VISION_DEFAULTS, "vision_config"),
    ):
        stated = data.get(part)
        fields = defaults | {key: value for key, value in (stated or {}).items() if key in defaults}
        configs.append(_config(kind, path, {_OURS.get(key, key): value for key, value in fields.items()}, projection))
    return "CLIP", *configs


def _open_clip(path: pathlib.Path) -> tuple[str, CLIPTextConfig, CLIPVisionConfig]:
    model = _read_json(path).get("model_cfg")
    if not isinstance(model, dict) or not all(isinstance(model.get(part), dict) for part in ("vision_cfg", "text_cfg")):
        raise InputError(f"{path} has no model_cfg with vision_cfg and text_cfg; copy it again")
    vision, text = model["vision_cfg"], model["text_cfg"]
    for part in (vision, text):
        strange = [key for key in part if key.startswith(("timm_", "hf_")) or key in ("attentional_pool", "pool_type")]
        if strange or isinstance(part.get("layers"), list):
            raise InputError(f"{path}: {', '.join(strange) or 'layers'} is of a tower that is not read; expected a ViT")
    activation = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
    projection, width, wide = model.get("embed_dim"), text.get("width", 512), vision.get("width", 768)
    texts = {
        "vocabulary": text.get("vocab_size", 49408), "length": text.get("context_length", 77), "width": width,
        "layers": text.get("layers", 12), "heads": text.get("heads", 8),
        "hidden": round(width * text.get("mlp_ratio", 4.0)), "activation": activation,
    }  # fmt: skip
    visions = {
        "image_size": vision.get("image_size", 224), "patch": vision.get("patch_size", 16), "width": wide,
        "layers": vision.get("layers", 12), "heads": wide // vision.get("head_width", 64),
        "hidden": round(wide * vision.get("mlp_ratio", 4.0)), "activation": activation,
    }  # fmt: skip
    configs = _config(CLIPTextConfig, path, texts, projection), _config(CLIPVisionConfig, path, visions, projection)
    return "OpenCLIP", *configs


def _colours(folder: pathlib.Path, size: int, *, open_clip_first: bool) -> tuple[Colour, Colour]:
    """Mean and deviation of the colours that the weights were trained on, from the files that state them.

    Raises:
        InputError: the files state another preprocessing than bicubic of the shorter side and the centre.
    """
    readers = [_transformers_colours, _open_clip_colours]
    for read in reversed(readers) if open_clip_first else readers:
        if (found := read(folder, size)) is not None:
            return found
    return CLIP_MEAN, CLIP_STD


def _transformers_colours(folder: pathlib.Path, size: int) -> tuple[Colour, Colour] | None:
    path, stated = folder / "preprocessor_config.json", None
    if path.is_file():
        stated = _read_json(path)
    elif _holds(folder / "processor_config.json", "image_processor"):
        path = folder / "processor_config.json"
        stated = _read_json(path)["image_processor"]
    if not isinstance(stated, dict):
        return None
    kinds = ["CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor"]
    square = {"height": size, "width": size}
    supported: dict[str, list] = {
        "resample": [3], "size": [size, {"shortest_edge": size}], "crop_size": [size, square], "do_resize": [True],
        "do_center_crop": [True], "do_normalize": [True], "do_rescale": [True], "rescale_factor": [1 / 255],
        "image_processor_type": kinds, "feature_extractor_type": kinds,
    }  # fmt: skip
    _refuse_others(path, stated, supported)
    return _colour(path, stated, "image_mean", CLIP_MEAN), _colour(path, stated, "image_std", CLIP_STD)


def _open_clip_colours(folder: pathlib.Path, size: int) -> tuple[Colour, Colour] | None:
    path = folder / "open_clip_config.json"
    stated = _read_json(path).get("preprocess_cfg") if path.is_file() else None
    if not isinstance(stated, dict):
        return None
    supported = {
        "resize_mode": ["shortest"], "interpolation": ["bicubic"], "mode": ["RGB"], "size": [size, [size, size]]
    }  # fmt: skip
    _refuse_others(path, stated, supported)
    return _colour(path, stated, "mean", CLIP_MEAN), _colour(path, stated, "std", CLIP_STD)


def _refuse_others(path: pathlib.Path, stated: Mapping[str, Any], supported: Mapping[str, list]) -> None:
    for name, values in supported.items():
        value = stated.get(name)
        near = isinstance(value, float) and name == "rescale_factor" and math.isclose(value, values[0], rel_tol=1e-6)
        if value is not None and not near and value not in values:
            raise InputError(
                f"{path}: {name} is {value!r}; expected {values[0]!r}: pictures are resized bicubically by their "
                "shorter side and cut to the centre, and weights trained on other pictures cannot be measured with"
            )


def _colour(path: pathlib.Path, stated: Mapping[str, Any], name: str, usual: Colour) -> Colour:
    value = stated.get(name)
    if value is None:
        return usual
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or not all(type(part) in (int, float) and 0 <= part <= 1 for part in values):
        raise InputError(f"{path}: {name} is {value!r}; expected three numbers between 0 and 1")
    if name.endswith("std") and min(values) == 0:
        raise InputError(f"{path}: {name} is {value!r}; expected three numbers above 0")
    return tuple(float(part) for part in values)


def _config(kind, path: pathlib.Path, fields: Mapping[str, Any], projection: Any):
    for name, value in {**fields, "projection": projection}.items():
        expected = (str,) if name == "activation" else (int, float) if name == "eps" else (int,)
        if not isinstance(value, expected) or isinstance(value, bool) or (name != "activation" and value <= 0):
            raise InputError(f"{path}: {name} is {value!r}; expected the sizes of a CLIP model")
    with input_errors(ValueError):
        return kind(**fields, projection=projection)
