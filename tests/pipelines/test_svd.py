"""`OrbitModel` against SV3D's loop written out, and where its frames stand."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.cli.main import main
from im3d_jax.diffusion import frame_scales, schedule, time_grid
from im3d_jax.diffusion import video_conditions as conditions
from im3d_jax.errors import WeightsError
from im3d_jax.images import mattes
from im3d_jax.models.clip_images import condition_pixels
from im3d_jax.models.kl_autoencoder import KLAutoencoder
from im3d_jax.models.stable_unet import StableUNet
from im3d_jax.pipelines import ViewTask, load, svd
from im3d_jax.pipelines.memory import MEMORIES
from im3d_jax.pipelines.sources import CheckpointSource
from im3d_jax.weights.checkpoints import open_checkpoint
from im3d_jax.weights.conversion import convert_checkpoint
from im3d_jax.weights.encoders import encoder_network
from im3d_jax.weights.miniature import miniature
from tests.small_checkpoints import open_small


ELEVATION = 0.3


@pytest.fixture(scope="module")
def model(checkpoints):
    return open_small(checkpoints["sv3d_p"], "sv3d_p")


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(1)
    return np.concatenate([rng.uniform(size=(32, 32, 3)), np.ones((32, 32, 1))], -1).astype(np.float32)


def draw(model, image, seed=0, quality="draft", report=None):
    """Views of a picture, and the network evaluations that they took."""
    task = ViewTask(image, None, seed, ELEVATION)
    (drawn,) = model.draw_views([task], model.view_settings(quality), report=report)()
    if isinstance(drawn, Exception):
        raise drawn
    return drawn.images, drawn.evaluations


def decode(model, latents):
    """One video's latents [T, h, w, z], in the network's order, to pictures."""
    network = KLAutoencoder(model.preset.autoencoder)
    params = {"params": model.parameters("vae")}
    decoder = jax.jit(lambda x: network.apply(params, x, method="decode"))
    return np.asarray(decoder(latents[None] / model.preset.autoencoder.scaling_factor))[0].clip(0, 1)


def test_views_by_an_independent_reading(model, image):
    """Stability AI's sampler (EulerEDMSampler, TrianglePredictionGuider), step by step."""
    made, count = draw(model, image, seed=7, quality="standard")
    assert count == 2 * 4 and made.shape == (5, 32, 32, 4)
    np.testing.assert_array_equal(made[0], image)

    preset, frames = model.preset, 5
    unet, autoencoder = StableUNet(preset.unet), KLAutoencoder(preset.autoencoder)
    params = {part: {"params": model.parameters(part)} for part in ("unet", "vae", "encoder")}
    encoder = encoder_network(preset.image_encoder)
    context = jax.jit(encoder.apply)(params["encoder"], condition_pixels(image[None, ..., :3], 8)).pooled[:, None]
    # Noise of 1e-5 / 2 on the condition is far below what is compared.
    latent = jax.jit(lambda pixels: autoencoder.apply(params["vae"], pixels, method="encode"))(image[None, ..., :3])
    azimuths = np.deg2rad(np.linspace(0, 360, frames + 1)[1:] % 360)
    turned = (azimuths - azimuths[-1]) % (2 * np.pi)
    vector = jnp.asarray(np.stack([np.full(5, 1e-5), np.full(5, np.pi / 2 - 0.3), turned], -1)[None], jnp.float32)
    sigmas = (700 ** (1 / 7) + np.linspace(0, 1, 4) * (0.002 ** (1 / 7) - 700 ** (1 / 7))) ** 7
    key = jax.random.fold_in(jax.random.key(7), 1)
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


def test_steps_that_are_reported_equal_the_one_program(model, image):
    reports = []
    made, count = draw(model, image, seed=7, quality="standard", report=lambda *report: reports.append(report))
    again, same = draw(model, image, seed=7, quality="standard")
    np.testing.assert_allclose(made[..., :3], again[..., :3], atol=2e-3)
    assert count == same == 8 and reports == [(i, 4, "views") for i in range(1, 5)]


def test_a_faint_refinement_returns_the_renders(model, image):
    """Almost no noise: what comes back is each render through the autoencoder, in its own place."""
    renders = np.random.default_rng(2).uniform(0.1, 0.9, (5, 32, 32, 4)).astype(np.float32)

    def refine(sigma, round):
        settings = dataclasses.replace(model.view_settings("standard"), refine_sigmas=(sigma,))
        (drawn,) = model.refine_views([renders], [ViewTask(image, None, 0, ELEVATION)], settings, round=round)()
        return drawn.images, drawn.evaluations

    refined, count = refine(0.004, 2)
    assert count == 2 * 10
    np.testing.assert_array_equal(refined[0], image)
    latents = conditions.to_network_order(model.encode(renders), "last", axis=0)
    expected = np.roll(decode(model, latents), 1, axis=0)
    error = np.abs(refined[1:, ..., :3] - expected[1:]).mean()
    assert error < 0.2 * np.abs(refined[1:, ..., :3] - expected[[2, 3, 4, 1]]).mean()
    strong, _ = refine(50.0, 1)
    assert np.abs(strong[1:, ..., :3] - expected[1:]).mean() > 5 * error


def test_a_task_without_a_picture(model):
    with pytest.raises(ValueError, match=r"sv3d_p \(sgm\) starts from a picture"):
        model.draw_views([ViewTask(None, "a mug", 0)], model.view_settings("draft"))


def test_what_a_prompt_is_good_for(model):
    (line,) = model.prompt_remarks("zebra")
    assert line == "the prompt is not read: sv3d_p (sgm) draws from the picture alone"
    assert model.vocabulary() == {}


def test_svd_begins_with_the_given_view(small, checkpoints, image, tmp_path):
    """Its orbit needs no turning, its decoder runs over frames, and a folder says how many frames there are."""
    model = load(str(checkpoints["svd"])).views
    assert model.preset.given_view == "first" and model.preset.autoencoder.temporal_decoder
    made, count = draw(model, image)
    assert count == 2 and made.shape == (5, 32, 32, 4) and np.isfinite(made).all()
    latents = jax.random.normal(jax.random.key(1), (5, 16, 16, 4))
    swapped = decode(model, latents[::-1])[::-1]
    assert np.abs(decode(model, latents) - swapped).max() > 1e-3, "the frames' order counts"

    checkpoint = open_checkpoint(checkpoints["svd"])
    convert_checkpoint(checkpoint, "diffusers", tmp_path / "svd")
    flags = [f"--model={checkpoints['svd']}", "--to=diffusers", "--frames=7", f"--out={tmp_path}/7"]
    assert main(["convert", *flags]) == 0
    assert load(f"{tmp_path}/7").views.num_views == 7
    config = tmp_path / "svd/unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_frames": 3}))
    assert load(str(tmp_path / "svd")).views.num_views == 3


def test_networks_leave_the_device(checkpoints, image):
    held = {}
    for name in ("16gb", "80gb"):
        model = open_small(checkpoints["sv3d_u"], "sv3d_u", name)
        before = len(jax.live_arrays())
        draw(model, image)
        model.release()
        held[name] = len(jax.live_arrays()) - before
    networks = open_checkpoint(checkpoints["sv3d_u"], preset=miniature("sv3d_u")).networks
    tensors = sum(map(len, networks.values()))
    assert held["16gb"] < 20 and held["80gb"] >= tensors > 200


class NoNumbers(CheckpointSource):
    """A source whose UNet has only NaN."""

    def load(self, part, dtype):
        params = super().load(part, dtype)
        return jax.tree.map(lambda leaf: leaf * jnp.nan, params) if part == "unet" else params


def test_weights_that_draw_no_numbers(checkpoints, image):
    source = NoNumbers(open_checkpoint(checkpoints["sv3d_u"], preset=miniature("sv3d_u")))
    model = svd.OrbitModel(source, MEMORIES["80gb"])
    with pytest.raises(WeightsError, match=r"sv3d_u \(sgm\) drew NaN or infinite values"):
        draw(model, image)


@pytest.mark.parametrize("quality", ["draft", "standard", "best"])
def test_qualities(model, quality):
    """A quality's share of the authors' steps, with their guidance over the frames."""
    settings = svd.OrbitModel.view_settings(model, quality)
    assert settings.views == {"draft": 1, "standard": 4, "best": 4}[quality]
    assert settings.frames == 5 and settings.guidance == ("triangle", 1.0, 2.5)
    assert settings.fit_side == 512 and settings.fit.outside_views == 0
    assert settings.fit.steps == {"draft": 300, "standard": 1200, "best": 2400}[quality]


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_whole_sampler_lowers_for_accelerators(model, platform):
    """All steps with both branches, as batches run them."""
    given = model.conditions_of(ViewTask(np.ones((32, 32, 4), np.float32), None, 0, ELEVATION))
    x = jax.ShapeDtypeStruct(model.latent_shape(), jnp.float32)
    levels = schedule(time_grid(4, last=0.0), svd.PROCESS)
    network, scales = StableUNet(model.preset.unet), frame_scales("triangle", 5, 1.0, 2.5)
    traced = svd.sample.trace(network, "euler", True, model.parameters("unet"), x, levels, given, scales)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.while" in text and "stablehlo.convolution" in text


def test_the_rig():
    """Where SV3D's cameras stand: 33.8 degrees from 3.44, where the unit sphere just fits."""
    assert math.degrees(math.asin(1 / svd.RIG.distance)) == pytest.approx(svd.RIG.fov_deg / 2, abs=0.01)
