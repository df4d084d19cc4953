"""A model bundle: one folder with everything that turns a prompt or picture into views.

    config.json                 sizes, noise process, prediction, metadata (JSON of `BundleConfig`)
    tokenizer.json              word-level tokenizer
    autoencoder.safetensors     four-channel autoencoder
    text_encoder.safetensors    text encoder
    unet.safetensors            spatio-temporal UNet (its spatial part is the text-to-image model)
    elevation.safetensors       elevation head

The bundle that ships with the project is the folder `tiny` beside this file; its tensors are bfloat16 and are
cast to float32 on reading.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from im3d_jax.atomic import write_whole
from im3d_jax.diffusion import Cosine
from im3d_jax.errors import WeightsError
from im3d_jax.models import (
    RgbaAutoencoder,
    RgbaAutoencoderConfig,
    TextConfig,
    TextEncoder,
    TinyUNet,
    TinyUNetConfig,
)
from im3d_jax.models.elevation import ElevationConfig, ElevationHead
from im3d_jax.weights.tokenizer import WordTokenizer
from im3d_jax.weights.trees import flatten, load_safetensors, save_safetensors, unflatten


PARTS = ("autoencoder", "text_encoder", "unet", "elevation")
BUNDLED = pathlib.Path(__file__).parent / "tiny"


@dataclasses.dataclass(frozen=True)
class BundleConfig:
    """What a bundle's config.json holds.

    Attributes:
        image_size: Side of the square images, pixels.
        target_fraction: Median of the longer side of the object's box over the image's side, in the training
            frames.
        log_snr_shift: The cosine process's shift of lambda; networks predict the velocity.
    """

    image_size: int = 128
    target_fraction: float = 0.6
    log_snr_shift: float = 0.0
    autoencoder: RgbaAutoencoderConfig = RgbaAutoencoderConfig()
    text: TextConfig = TextConfig()
    unet: TinyUNetConfig = TinyUNetConfig()
    elevation: ElevationConfig = ElevationConfig()

    @property
    def process(self) -> Cosine:
        return Cosine(self.log_snr_shift)

    @property
    def latent_size(self) -> int:
        return self.image_size // self.autoencoder.factor


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        name: What it was asked for as.
        folder: Where its files are.
        config: Sizes, noise process, prediction.
        tokenizer: Of prompts.
        params: One nested dictionary for each entry of `PARTS`, float32.
    """

    name: str
    folder: pathlib.Path
    config: BundleConfig
    tokenizer: WordTokenizer
    params: dict


def config_from_json(data: dict) -> BundleConfig:
    """Builds the nested dataclasses; unknown or missing fields and values of another type are errors.

    Raises:
        WeightsError: Names the field.
    """

    def build(kind, values, where):
        known = {field.name: field for field in dataclasses.fields(kind)}
        if not isinstance(values, dict) or set(values) != set(known):
            got = sorted(values) if isinstance(values, dict) else values
            raise WeightsError(f"{where} of config.json must have the fields {sorted(known)}, found {str(got)[:200]}")
        made = {}
        for name, value in values.items():
            default = getattr(kind(), name)
            if dataclasses.is_dataclass(default):
                made[name] = build(type(default), value, f"{where}.{name}")
            else:
                made[name] = _like(value, default, f"{where}.{name}")
        return kind(**made)

    return build(BundleConfig, data, "the root")


def _like(value, default, where: str):
    """`value` of a JSON file in the type of `default`: tuples from lists, floats from integers."""
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(_like(entry, default[0], where) for entry in value)
    if type(default) is float and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        kind = "list" if isinstance(default, tuple) else type(default).__name__
        raise WeightsError(f"{where} of config.json must be a {kind} such as {default}, found {str(value)[:40]!r}")
    return value


def networks(config: BundleConfig, dtype: DTypeLike = jnp.float32) -> dict:
    """The linen modules of a bundle by part name."""
    return {
        "autoencoder": RgbaAutoencoder(config.autoencoder, dtype),
        "text_encoder": TextEncoder(config.text, dtype),
        "unet": TinyUNet(config.unet, dtype),
        "elevation": ElevationHead(config.elevation),
    }


def example_inputs(config: BundleConfig) -> dict[str, tuple]:
    """Arguments with which each part's module is initialised."""
    image, latent, z = config.image_size, config.latent_size, config.autoencoder.latent_channels
    frames = config.unet.frames
    return {
        "autoencoder": (jnp.zeros((1, image, image, config.autoencoder.image_channels)),),
        "text_encoder": (jnp.zeros((1, config.text.length), jnp.int32),),
        "unet": (
            jnp.zeros((1, frames, latent, latent, z)),
            jnp.zeros((1,)),
            jnp.zeros((1, config.text.length, config.text.width)),
            jnp.ones((1, config.text.length), bool),
            jnp.zeros((1, latent, latent, z)),
            jnp.ones((1,)),
        ),
        "elevation": (jnp.zeros((1, frames, latent, latent, z)),),
    }


def parameter_shapes(config: BundleConfig) -> dict:
    """{part: nested `jax.ShapeDtypeStruct`s}, without computing anything."""
    inputs = example_inputs(config)
    return {
        part: jax.eval_shape(module.init, jax.random.key(0), *inputs[part])["params"]
        for part, module in networks(config).items()
    }


def save_bundle(
    folder: str | os.PathLike,
    config: BundleConfig,
    tokenizer: WordTokenizer,
    params: dict,
    dtype: DTypeLike = jnp.bfloat16,
) -> None:
    """Writes a bundle; tensors are rounded to `dtype`."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.json", json.dumps(dataclasses.asdict(config), indent=1) + "\n")
    write_whole(folder / "tokenizer.json", tokenizer.json + "\n")
    for part in PARTS:
        save_safetensors(folder / f"{part}.safetensors", flatten(params[part]), dtype=dtype)


def load_bundle(model: str = "tiny") -> Bundle:
    """Loads the bundled model (``tiny``) or a bundle's folder.

    Raises:
        WeightsError: One line: what is missing or damaged and what to do.
    """
    folder = BUNDLED if model == "tiny" else pathlib.Path(model)
    # Not pathlib's test, which fails on names that are too long.
    if not os.path.isdir(folder):
        raise WeightsError(
            f"--model={model}: no such folder or file; give 'tiny', a folder with config.json and safetensors files, "
            "or weights of SV3D or SVD (a folder, a file, or a hub id organisation/name)"
        )
    text = {}
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise WeightsError(f"{folder} holds no {name}: it is not a model folder")
        try:
            text[name] = (folder / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise WeightsError(f"{folder / name} is not readable as UTF-8 text ({error}): copy it again") from error
    try:
        config = config_from_json(json.loads(text["config.json"]))
        tokenizer = WordTokenizer(text["tokenizer.json"], config.text.length)
        if len(tokenizer.words()) + 3 > config.text.vocabulary:
            raise ValueError(
                f"tokenizer.json has more words than text.vocabulary={config.text.vocabulary} of config.json"
            )
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{folder}: {error}") from error
    try:
        wanted = parameter_shapes(config)
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise WeightsError(f"{folder}: no network has the sizes of config.json ({reason})") from error
    params = {}
    for part, shapes in wanted.items():
        path = folder / f"{part}.safetensors"
        flat = {name: value.astype("float32") for name, value in load_safetensors(path).items()}
        broken = [name for name, value in flat.items() if not np.isfinite(value).all()]
        if broken:
            raise WeightsError(f"{path}: {broken[0]} holds NaN or infinite numbers; copy the file again")
        try:
            params[part] = unflatten(flat, shapes)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
    return Bundle(model, folder, config, tokenizer, params)
