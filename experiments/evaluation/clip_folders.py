"""CLIP from the folders that people download: transformers' layout and OpenCLIP's."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from experiments.evaluation.clip_similarity import Clip
from im3d_jax.digests import file_hash
from im3d_jax.errors import InputError, WeightsError, input_errors
from im3d_jax.models.clip import CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig
from im3d_jax.models.clip_images import CLIP_MEAN, CLIP_STD, Colour
from im3d_jax.weights.encoders import load_encoder
from im3d_jax.weights.prompt_tokenizers import load_clip_tokenizer
from im3d_jax.weights.tensor_files import network_files


def load_clip(folder: str | os.PathLike) -> Clip:
    """Reads CLIP.

    Args:
        folder: With `config.json` and `model.safetensors` (transformers: openai/clip-vit-large-patch14 and others), or
            with `open_clip_config.json` and `open_clip_model.safetensors` (OpenCLIP); the tokenizer's files lie beside
            them. Where both layouts are there, the first is read. Mean and deviation of the colours come from
            `preprocessor_config.json` or OpenCLIP's `preprocess_cfg`; without either they are CLIP's own.

    Raises:
        InputError: A file is missing, damaged, or of a kind that is not read.
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
        InputError: The files state another preprocessing than bicubic of the shorter side and the centre.
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
    red, green, blue = (float(part) for part in values)
    return red, green, blue


def _config(kind: Callable[..., Any], path: pathlib.Path, fields: Mapping[str, Any], projection: Any) -> Any:
    for name, value in {**fields, "projection": projection}.items():
        expected = (str,) if name == "activation" else (int, float) if name == "eps" else (int,)
        if (
            not isinstance(value, expected)
            or isinstance(value, bool)
            or (isinstance(value, int | float) and value <= 0)
        ):
            raise InputError(f"{path}: {name} is {value!r}; expected the sizes of a CLIP model")
    with input_errors(ValueError):
        return kind(**fields, projection=projection)
