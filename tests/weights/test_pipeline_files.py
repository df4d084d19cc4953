"""Folders that diffusers opens: what fine-tuning writes is drawn by its pipeline with the trained network."""

import dataclasses
import json

import jax
import numpy as np
import PIL.Image
import pytest

from im3d_jax.models.stable_unet import StableUNet
from im3d_jax.weights import load_network, open_checkpoint
from im3d_jax.weights.export import export_checkpoint
from im3d_jax.weights.miniature import miniature, write_miniature
from im3d_jax.weights.pipeline_files import has_pipeline, pipeline_files
from im3d_jax.weights.presets import PRESETS


def widths(preset):
    """The miniature with what diffusers does not leave open: 32 groups, two layers a block, pictures of 224 pixels."""
    unet = dataclasses.replace(preset.unet, channels=(32, 64), groups=32, heads=(2, 4))
    autoencoder = dataclasses.replace(preset.autoencoder, channels=(32, 64), groups=32, layers_per_block=2)
    encoder = dataclasses.replace(preset.image_encoder, image_size=224, patch=56)
    return dataclasses.replace(preset, unet=unet, autoencoder=autoencoder, image_encoder=encoder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder, preset, trained parameters of the UNet)."""
    folder = tmp_path_factory.mktemp("export")
    preset = widths(miniature("svd"))
    checkpoint = open_checkpoint(write_miniature(folder / "svd.safetensors", preset), preset=preset)
    unet = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32) * 1.05, load_network(checkpoint, "unet"))
    unet = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), unet)
    export_checkpoint(checkpoint, preset, unet, folder / "model")
    return folder / "model", preset, unet


def test_which_families_have_a_pipeline():
    assert {name for name, preset in PRESETS.items() if has_pipeline(preset)} == {"svd", "svd_xt"}


def test_the_index_names_what_is_there(exported):
    folder, preset, _ = exported
    index = json.loads((folder / "model_index.json").read_text())
    parts = {name for name in index if not name.startswith("_")}
    assert parts == {path.name for path in folder.iterdir() if path.is_dir()}
    for path, values in pipeline_files(preset).items():
        assert json.loads((folder / path).read_text()) == values
    # Our own reader finds the family by the folder alone, sampler and all.
    assert set(open_checkpoint(folder, preset=preset).networks) >= {"unet", "vae", "image_encoder"}


@pytest.mark.parity
def test_the_pipeline_draws_with_the_trained_network(exported):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    folder, preset, unet = exported
    pipeline = diffusers.StableVideoDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, preset.frames, 8, 16, 16)).astype(np.float32)
    context = rng.normal(size=(1, 1, preset.unet.context_dims[0])).astype(np.float32)
    scalars = np.asarray([[6.0, 127.0, 0.02]], np.float32)
    with torch.no_grad():
        theirs = pipeline.unet(
            torch.from_numpy(x), torch.tensor([0.7]), torch.from_numpy(context), torch.from_numpy(scalars)
        ).sample.numpy()
    network = StableUNet(preset.unet)
    ours = network.apply({"params": unet}, x.transpose(0, 1, 3, 4, 2), np.float32([0.7]), context, scalars)
    np.testing.assert_allclose(np.asarray(ours).transpose(0, 1, 4, 2, 3), theirs, atol=2e-4)
    picture = PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        picture, height=64, width=64, num_frames=preset.frames, num_inference_steps=2, output_type="np"
    ).frames
    assert frames.shape == (1, preset.frames, 64, 64, 3) and np.isfinite(frames).all()
