"""Checkpoints of very small SV3D-like and Stable-Diffusion-like networks with random weights, in both layouts."""

import dataclasses
import json

import numpy as np

from im3d_jax.models.clip import CLIPTextConfig, CLIPVisionConfig
from im3d_jax.pipelines import svd
from im3d_jax.pipelines.memory import MEMORIES
from im3d_jax.pipelines.sources import CheckpointSource
from im3d_jax.reconstruction import FitConfig
from im3d_jax.reconstruction.orbit_search import Search
from im3d_jax.weights.checkpoints import open_checkpoint
from im3d_jax.weights.conversion import convert_checkpoint
from im3d_jax.weights.encoders import encoder_table
from im3d_jax.weights.names.networks import autoencoder_shapes, autoencoder_table, unet_shapes, unet_table
from im3d_jax.weights.presets import PRESETS
from im3d_jax.weights.tensor_files import write_tensors


SIDE, VIEWS = 32, 5
UNET = dict(
    channels=(8, 16), groups=4, layers_per_block=(1, 1), attention=(True, False), heads=(1, 2), context_dims=(6,),
    down_eps=(1e-5,) * 2, up_eps=(1e-5,) * 2,
)  # fmt: skip
VISION = CLIPVisionConfig(width=16, layers=1, heads=2, hidden=32, projection=6, image_size=8, patch=4)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
TEXT = CLIPTextConfig(
    vocabulary=len(TOKENS), length=12, width=6, layers=1, heads=2, hidden=12, end_token=len(TOKENS) - 1
)
SEARCH = Search(
    side=16, steps=4, more=2, warm=1, fit=dataclasses.replace(Search().fit, capacity=64, initial=64, views_per_step=2)
)
FIT = FitConfig(
    steps=12, capacity=192, initial=128, densify_every=6, densify_from=6, densify_until=11, multiscale=False,
    views_per_step=2, outside_views=2,
)  # fmt: skip
FAMILIES = ("sv3d_u", "sv3d_p", "svd", "svd_xt", "sd15")


def tiny(family):
    """The family's preset in miniature."""
    preset = PRESETS[family]
    dims = (4, 8, 8) if "polar" in preset.vector else (4,) * len(preset.vector)
    return dataclasses.replace(
        preset,
        unet=dataclasses.replace(preset.unet, **UNET, vector_dims=dims),
        autoencoder=dataclasses.replace(preset.autoencoder, channels=(8, 16), groups=4, layers_per_block=1),
        image_encoder=VISION if preset.image_encoder else None,
        text_encoders=(TEXT,) if preset.text_encoders else (),
        frames=VIEWS if preset.frames > 1 else 1,
        height=SIDE,
        width=SIDE,
        steps=4,
    )


def write_sgm(path, preset):
    """A single file as Stability AI's, of random values that keep activations near 1."""
    rng = np.random.default_rng(0)
    shapes = {}
    for table in (
        unet_table(preset, unet_shapes(preset.unet), "sgm"),
        autoencoder_table(preset, autoencoder_shapes(preset.autoencoder), "sgm"),
    ):
        shapes |= {entry.name: entry.shape for entry in table.values()}
    config = preset.image_encoder or preset.text_encoders[0]
    prefix = "conditioner.embedders.0.open_clip.model." if preset.image_encoder else "cond_stage_model.transformer."
    layout = "open_clip" if preset.image_encoder else "transformers"
    table = encoder_table(config, layout, prefix if preset.image_encoder else prefix + "text_model.")
    shapes |= {entry.name: entry.shape for entry in table.entries.values()}

    def values(shape):
        size = int(np.prod(shape[1:])) if len(shape) > 1 else 100
        return (rng.normal(size=shape) / np.sqrt(size) + (len(shape) == 1)).astype(np.float16)

    write_tensors(path, [(name, "F16", shape, lambda shape=shape: values(shape)) for name, shape in shapes.items()])
    return path


def write_all(folder):
    """{name: path}: files of sv3d_u, sv3d_p and svd; `folder`, sv3d_u for diffusers; `sd` with its tokenizer."""
    made = {family: write_sgm(folder / f"{family}.safetensors", tiny(family)) for family in ("sv3d_u", "sv3d_p", "svd")}
    made["folder"] = folder / "sv3d"
    convert_checkpoint(open_checkpoint(made["sv3d_u"], preset=tiny("sv3d_u")), "diffusers", made["folder"])
    pictures = folder / "sd"
    pictures.mkdir()
    made["sd"] = write_sgm(pictures / "sd15.safetensors", tiny("sd15"))
    tokens = {token: number for number, token in enumerate(TOKENS)}
    (pictures / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens, "merges": []}}))
    return made


def shortened(settings):
    """Settings of an orbit with a short search and a short fit."""
    return dataclasses.replace(settings, fit=FIT, fit_side=24, search=SEARCH)


def tables():
    """(table, {name: entry}) of all that makes `im3d_jax.load` open these checkpoints, with short searches and fits."""
    yield PRESETS, {family: tiny(family) for family in FAMILIES}
    yield svd.QUALITIES, {quality: shortened(settings) for quality, settings in svd.QUALITIES.items()}


class ShortOrbitModel(svd.OrbitModel):
    """An `OrbitModel` with short searches and fits."""

    def view_settings(self, quality):
        return shortened(super().view_settings(quality))


def open_small(path, family, memory="80gb"):
    """The model of a small checkpoint, whatever the tables say."""
    return ShortOrbitModel(CheckpointSource(open_checkpoint(path, preset=tiny(family))), MEMORIES[memory])
