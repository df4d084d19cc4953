"""Checkpoints of very small SV3D-like and Stable-Diffusion-like networks with random weights, in both layouts."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from im3d_jax.foreign import memory, recipes
from im3d_jax.models.clip import CLIPTextConfig, CLIPVisionConfig
from im3d_jax.reconstruction import PRESETS as FITS
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
FIT = dataclasses.replace(
    FITS["draft"], steps=12, capacity=192, initial=128, densify_every=6, densify_from=6, densify_until=11,
    multiscale=False, views_per_step=2,
)  # fmt: skip


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


@pytest.fixture(scope="package")
def checkpoints(tmp_path_factory):
    """{name: path}: two SV3D files, one of them also as a folder, and Stable Diffusion with its tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {family: write_sgm(folder / f"{family}.safetensors", tiny(family)) for family in ("sv3d_u", "sv3d_p", "svd")}
    made["folder"] = folder / "sv3d"
    convert_checkpoint(open_checkpoint(made["sv3d_u"], preset=tiny("sv3d_u")), "diffusers", made["folder"])
    pictures = folder / "sd"
    pictures.mkdir()
    made["sd"] = write_sgm(pictures / "sd15.safetensors", tiny("sd15"))
    tokens = {token: number for number, token in enumerate(TOKENS)}
    (pictures / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens, "merges": []}}))
    return made


@pytest.fixture
def small(monkeypatch):
    """All families in miniature, short searches and fits."""
    for family in ("sv3d_u", "sv3d_p", "svd", "svd_xt", "sd15"):
        monkeypatch.setitem(PRESETS, family, tiny(family))
    recipe = recipes.Recipe(fit_side=24, search=SEARCH)
    for family in recipes.RECIPES:
        monkeypatch.setitem(recipes.RECIPES, family, recipe)
    monkeypatch.setattr(recipes, "fit_config", lambda quality: FIT)
    monkeypatch.setattr(memory, "device_gib", lambda: None)


@pytest.fixture
def picture(tmp_path):
    """A red box on white."""
    pixels = np.full((60, 60, 3), 255, np.uint8)
    pixels[10:50, 20:40] = (200, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "box.png")
    return tmp_path / "box.png"
