"""`OrbitPipeline` against SV3D's loop written out, and where its frames stand."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax import pipeline
from im3d_jax.cli.main import main
from im3d_jax.diffusion import video_conditions as conditions
from im3d_jax.foreign import mattes, networks, recipes, video
from im3d_jax.foreign.sources import CheckpointSource
from im3d_jax.models.clip_images import condition_pixels
from im3d_jax.models.kl_autoencoder import KLAutoencoder
from im3d_jax.models.stable_unet import StableUNet
from im3d_jax.weights.checkpoints import open_checkpoint
from im3d_jax.weights.conversion import convert_checkpoint
from im3d_jax.weights.encoders import encoder_network
from im3d_jax.weights.presets import PRESETS
from im3d_jax.errors import WeightsError


@pytest.fixture
def model(small, checkpoints):
    return pipeline.load(str(checkpoints["sv3d_p"]), elevation=0.3)


@pytest.fixture
def image():
    rng = np.random.default_rng(1)
    return np.concatenate([rng.uniform(size=(32, 32, 3)), np.ones((32, 32, 1))], -1).astype(np.float32)


def test_views_by_an_independent_reading(model, image):
    """Stability AI's sampler (EulerEDMSampler, TrianglePredictionGuider), step by step."""
    made, count = model.draw_views(image, None, seed=7, quality="standard")
    assert count == 2 * 4 and made.shape == (5, 32, 32, 4)
    np.testing.assert_array_equal(made[0], image)

    preset, frames = model.preset, 5
    unet, autoencoder = StableUNet(preset.unet), KLAutoencoder(preset.autoencoder)
    params = {part: {"params": model._parameters(part)} for part in ("unet", "vae", "encoder")}
    encoder = encoder_network(preset.image_encoder)
    context = jax.jit(encoder.apply)(params["encoder"], condition_pixels(image[None, ..., :3], 8)).pooled[:, None]
    # Noise of 1e-5 / 2 on the condition is far below what is compared.
    latent = jax.jit(lambda pixels: autoencoder.apply(params["vae"], pixels, method="encode"))(image[None, ..., :3])
    azimuths = np.deg2rad(np.linspace(0, 360, frames + 1)[1:] % 360)
    turned = (azimuths - azimuths[-1]) % (2 * np.pi)
    vector = jnp.asarray(np.stack([np.full(5, 1e-5), np.full(5, np.pi / 2 - 0.3), turned], -1)[None], jnp.float32)
    sigmas = (700 ** (1 / 7) + np.linspace(0, 1, 4) * (0.002 ** (1 / 7) - 700 ** (1 / 7))) ** 7
    key = jax.random.fold_in(jax.random.key(7), video.VIEWS_STREAM)
    x = jax.random.normal(key, (1, frames, 16, 16, 4)) * np.sqrt(1 + sigmas[0] ** 2)
    scales = (1 + 1.5 * (1 - np.abs(np.linspace(-1, 1, frames)))).reshape(1, frames, 1, 1, 1).astype(np.float32)
    network = jax.jit(lambda x, time, on: unet.apply(params["unet"], x, time, on * context, vector))
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        denoised = []
        for on in (0.0, 1.0):
            behind = jnp.broadcast_to(on * latent[:, None], x.shape)
            inside = jnp.concatenate([x / np.sqrt(sigma**2 + 1), behind], axis=-1)
            output = network(inside, jnp.full((1,), 0.25 * np.log(sigma), jnp.float32), on)
            denoised.append(x / (sigma**2 + 1) - output * sigma / np.sqrt(sigma**2 + 1))
        guided = denoised[0] + scales * (denoised[1] - denoised[0])
        x = x + (x - guided) / sigma * (following - sigma)
    decode = jax.jit(lambda latents: autoencoder.apply(params["vae"], latents, method="decode"))
    pictures = decode(x / 0.18215).clip(0, 1)[0]
    # The given view is the network's last frame; ours begin with it.
    expected, _ = mattes.cut_out_views(np.roll(np.asarray(pictures), 1, axis=0))
    np.testing.assert_allclose(made[1:, ..., :3], expected[1:, ..., :3], atol=2e-3)


def test_a_faint_refinement_returns_the_renders(model, image):
    """Almost no noise: what comes back is each render through the autoencoder, in its own place."""
    renders = np.random.default_rng(2).uniform(0.1, 0.9, (5, 32, 32, 4)).astype(np.float32)
    model.recipe = dataclasses.replace(model.recipe, refine_sigmas=(0.004,))
    refined, count = model.refine(renders, image, None, round=2, seed=0, quality="standard")
    assert count == 2 * 10
    np.testing.assert_array_equal(refined[0], image)
    latents = conditions.to_network_order(model.encode(renders), "last", axis=0)
    expected = np.roll(np.asarray(model.decode(latents)), 1, axis=0)
    error = np.abs(refined[1:, ..., :3] - expected[1:]).mean()
    assert error < 0.2 * np.abs(refined[1:, ..., :3] - expected[[2, 3, 4, 1]]).mean()
    model.recipe = dataclasses.replace(model.recipe, refine_sigmas=(50.0,))
    strong, _ = model.refine(renders, image, None, round=1, seed=0, quality="standard")
    assert np.abs(strong[1:, ..., :3] - expected[1:]).mean() > 5 * error


def test_svd_begins_with_the_given_view(small, checkpoints, image, tmp_path):
    """Its orbit needs no turning, its decoder runs over frames, and a folder says how many frames there are."""
    model = pipeline.load(str(checkpoints["svd"]))
    assert model.preset.given_view == "first" and model.preset.autoencoder.temporal_decoder
    made, count = model.draw_views(image, None, seed=0, quality="draft")
    assert count == 2 and made.shape == (5, 32, 32, 4) and np.isfinite(made).all()
    latents = jax.random.normal(jax.random.key(1), (5, 16, 16, 4))
    swapped = model.decode(latents[::-1])[::-1]
    assert np.abs(model.decode(latents) - swapped).max() > 1e-3, "the frames' order counts"

    checkpoint = open_checkpoint(checkpoints["svd"])
    convert_checkpoint(checkpoint, "diffusers", tmp_path / "svd")
    flags = [f"--model={checkpoints['svd']}", "--to=diffusers", "--frames=7", f"--out={tmp_path}/7"]
    assert main(["convert", *flags]) == 0
    assert pipeline.load(f"{tmp_path}/7").num_views == 7
    config = tmp_path / "svd/unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_frames": 3}))
    assert pipeline.load(str(tmp_path / "svd")).num_views == 3


def test_networks_leave_the_device(small, checkpoints, image):
    held = {}
    for name in ("16gb", "80gb"):
        model = pipeline.load(str(checkpoints["sv3d_u"]), memory=name)
        before = len(jax.live_arrays())
        model.draw_views(image, None, seed=0, quality="draft")
        model.release()
        held[name] = len(jax.live_arrays()) - before
    tensors = sum(len(network) for network in open_checkpoint(checkpoints["sv3d_u"]).networks.values())
    assert held["16gb"] < 20 and held["80gb"] >= tensors > 200


def test_weights_that_draw_no_numbers(model, image, monkeypatch):
    monkeypatch.setattr(model._parameters._source, "load", lambda part, dtype: broken[part])
    loaded = {part: CheckpointSource.load(model._parameters._source, part, np.float32) for part in ("vae", "encoder")}
    unet = CheckpointSource.load(model._parameters._source, "unet", np.float32)
    broken = loaded | {"unet": jax.tree.map(lambda leaf: leaf * np.nan, unet)}
    with pytest.raises(WeightsError, match="no numbers"):
        model.draw_views(image, None, seed=0, quality="draft")


def test_mattes():
    view = np.ones((48, 48, 3), np.float32)
    y, x = np.mgrid[:48, :48] - 23.5
    view[np.hypot(x, y) < 14] = 0.9, 0.3, 0.2
    view[22:24, 22:24] = 1.0  # a highlight
    uneven = view.copy()
    uneven[:, :9] = np.random.default_rng(0).uniform(0, 1, (48, 9, 3))
    uneven[0], uneven[-1], uneven[:, -1] = 0.4, 0.6, 0.2
    cut, count = mattes.cut_out_views(np.stack([view, uneven]))
    assert count == 1 and cut.shape == (2, 48, 48, 4)
    inside = np.hypot(x, y) < 11
    assert (cut[1, ..., 3][inside] > 0.99).all()
    inside &= np.hypot(x, y) > 4
    for one in cut:
        assert (one[..., 3][inside] > 0.99).all()
        np.testing.assert_allclose(one[inside][:, :3], np.tile([0.9, 0.3, 0.2], (inside.sum(), 1)), atol=1e-6)
    assert (cut[0, ..., 3][np.hypot(x, y) > 16] == 0).all()
    assert (cut[1, 2:6, 40:46, 3] == 0).all(), "white stays background where the border is uneven"


def test_frames_at_once_divide():
    assert [recipes.frames_at_once(21, most) for most in (1, 3, 7, 8)] == [1, 3, 7, 7]
    assert recipes.frames_at_once(25, 4) == 1


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_whole_sampler_lowers_for_accelerators(model, platform):
    """All steps with both branches, as batches run them."""
    given = model.conditions(np.ones((32, 32, 4), np.float32), seed=0)
    x = jax.ShapeDtypeStruct(model.latent_shape(), jnp.float32)
    levels = video.schedule(video.time_grid(4, last=0.0), video.PROCESS)
    traced = video._all_steps.trace(model._unet, "euler", model.parameters("unet"), x, levels, given, model._scales)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.while" in text and "stablehlo.convolution" in text


@pytest.mark.parametrize(
    "capability, platform, flash", [("9.0", "gpu", True), ("10.0", "gpu", True), ("7.5", "gpu", False)]
)
def test_flash_attention_where_cudnn_has_it(monkeypatch, capability, platform, flash):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    monkeypatch.setattr(networks.jax, "devices", lambda: [device])
    network = networks.unet_of(PRESETS["sv3d_u"], jnp.bfloat16)
    assert network.config.attention_implementation == ("cudnn" if flash else "xla")
    assert networks.unet_of(PRESETS["sv3d_u"], jnp.float32).config.attention_implementation == "xla"
