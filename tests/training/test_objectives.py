"""Losses against closed forms: targets, weights, times, dropped conditions, and what each stage's network is told."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.diffusion import Cosine, Karras, add_noise, convert_prediction
from im3d_jax.models import StableUNet, is_temporal_parameter
from im3d_jax.training.objectives import Denoising, LogNormalSigmas, UniformTimes, drop_conditions
from im3d_jax.training.stages.bundle_objectives import (
    AutoencoderObjective,
    ElevationObjective,
    PictureObjective,
    TurntableObjective,
    draw_given,
    drop_prompts,
)
from im3d_jax.training.stages.svd import trained_rule
from im3d_jax.training.stages.video_objectives import EmuObjective, SvdObjective, scalar_conditions
from im3d_jax.training.trees import merge, partition
from im3d_jax.weights import flatten, networks, parameter_shapes
from im3d_jax.weights.names.networks import unet_shapes
from im3d_jax.weights.presets import PRESETS
from tests import tiny


KEYS = jax.random.split(jax.random.key(0), 4)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("process", "prediction"), [(Cosine(), "v"), (Cosine(), "x0"), (Cosine(), "eps"), (Karras(), "edm_v")]
)
@pytest.mark.parametrize("weighting", ["min_snr", "edm"])
def test_weights_are_those_of_x0s_error(process, prediction, weighting):
    """Whatever a network predicts, the weighted error is w(SNR) times the squared error of its estimate of x0."""
    clean, noise = (jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32) for _ in range(2))
    times = jnp.asarray([0.3, 0.5, 0.7])
    made = jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)
    denoising = Denoising(process, prediction, weighting=weighting)
    found = denoising.error(lambda noised, t: made, clean, times, noise)
    noised = add_noise(clean, noise, times, process)
    x0 = made if prediction == "x0" else convert_prediction(made, noised, times, process, prediction, "x0")
    level = process.level(times)
    snr = (level.alpha / level.sigma) ** 2
    weight = jnp.minimum(snr, 5.0) if weighting == "min_snr" else (level.alpha**2 + level.sigma**2) / level.sigma**2
    np.testing.assert_allclose(found, weight * jnp.square(x0 - clean).mean(1), rtol=2e-4)


def test_unit_weight_of_edm_v_is_edms_weight():
    times = jnp.asarray([0.2, 0.6, 0.9])
    np.testing.assert_allclose(Denoising(Karras(), "edm_v", weighting="edm").weight(times), jnp.ones(3), rtol=1e-5)


def test_times_have_their_distributions():
    keys = jax.random.split(jax.random.key(1), 4000)
    uniform = jax.vmap(lambda key: UniformTimes(0.4)(key, Cosine()))(keys)
    assert float((uniform > 0.8).mean()) == pytest.approx(0.4 + 0.6 * 0.2, abs=0.03)
    process = Karras()
    times = jax.vmap(lambda key: LogNormalSigmas(1.0, 1.6)(key, process))(keys)
    logs = jnp.log(process.sigma(times))
    assert float(logs.mean()) == pytest.approx(1.0, abs=0.1) and float(logs.std()) == pytest.approx(1.6, abs=0.1)


def test_conditions_are_dropped_alone_and_together():
    keys = jax.random.split(jax.random.key(2), 4000)
    no_prompt, no_image = drop_conditions(keys, 0.1)
    counts = {(bool(a), bool(b)): 0 for a in (0, 1) for b in (0, 1)}
    for pair in zip(np.asarray(no_prompt).tolist(), np.asarray(no_image).tolist(), strict=True):
        counts[pair] += 1 / 4000
    assert counts[False, False] == pytest.approx(0.7, abs=0.03)
    assert all(counts[pair] == pytest.approx(0.1, abs=0.02) for pair in counts if any(pair))
    tokens = jnp.asarray([[1, 5, 6, 0], [1, 7, 0, 0]])
    np.testing.assert_array_equal(drop_prompts(tokens, jnp.asarray([True, False])), [[1, 0, 0, 0], [1, 7, 0, 0]])


def test_given_frames():
    """Frame 0 always; in a share of the examples 1 to 3 others, each as often."""
    given = np.asarray(jax.vmap(lambda key: draw_given(key, 8, 0.4))(jax.random.split(jax.random.key(5), 8000)))
    assert set(np.unique(given)) == {0.0, 1.0} and (given[:, 0] == 1).all()
    counts = np.bincount(given[:, 1:].sum(1).astype(int), minlength=4) / len(given)
    np.testing.assert_allclose(counts, [0.6, 0.4 / 3, 0.4 / 3, 0.4 / 3], atol=0.02)
    np.testing.assert_allclose(given[:, 1:].mean(0), 0.4 * 2 / 7, atol=0.02)


@pytest.fixture(scope="module")
def bundle():
    return networks(tiny.BUNDLE), jax.tree.map(jnp.asarray, tiny.draw_parameters(parameter_shapes(tiny.BUNDLE)))


def bundle_batch():
    size, z = tiny.BUNDLE.latent_size, tiny.BUNDLE.autoencoder.latent_channels
    return {
        "latents": RNG.normal(size=(4, tiny.FRAMES, size, size, z)).astype(np.float32),
        "tokens": np.asarray([[1, 3, 4, 5, 0, 0]] * 4, np.int32),
        "elevation": np.linspace(0, 0.7, 4, dtype=np.float32),
        "rgba": RNG.integers(0, 256, (4, tiny.SIDE, tiny.SIDE, 4)).astype(np.uint8),
    }


def objectives_of(nets):
    denoising = Denoising(tiny.BUNDLE.process, "v")
    return {
        "autoencoder": AutoencoderObjective(nets["autoencoder"]),
        "pictures": PictureObjective(nets["unet"], nets["text_encoder"], denoising),
        "turntables": TurntableObjective(
            nets["unet"], nets["text_encoder"], denoising, picture_weight=0.5, more_given=0.5
        ),
        "elevation": ElevationObjective(nets["elevation"]),
    }


@pytest.mark.parametrize("name", ["autoencoder", "pictures", "turntables", "elevation"])
def test_an_examples_loss_does_not_depend_on_the_others(bundle, name):
    """Half of a batch alone has the same losses, so accumulation and sharding change nothing."""
    nets, params = bundle
    objective, batch = objectives_of(nets)[name], bundle_batch()
    whole, figures = jax.jit(objective.__call__)(params, batch, KEYS)
    half, _ = jax.jit(objective.__call__)(params, jax.tree.map(lambda leaf: leaf[2:], batch), KEYS[2:])
    assert whole.shape == (4,) and np.isfinite(whole).all() and all(leaf.shape == (4,) for leaf in figures.values())
    np.testing.assert_allclose(whole[2:], half, rtol=2e-5)
    other, _ = jax.jit(objective.__call__)(params, batch, KEYS[::-1])
    assert not np.allclose(other, whole), "the keys decide what is random"


def test_held_layers_do_not_move_and_trained_ones_do(bundle):
    nets, params = bundle
    objective, batch = objectives_of(nets)["turntables"], bundle_batch()
    both = {part: params[part] for part in ("unet", "text_encoder")}
    trained, held = partition(both, is_temporal_parameter)
    assert merge(trained, held).keys() == both.keys()
    gradient = jax.jit(jax.grad(lambda p: objective(merge(p, held), batch, KEYS)[0].mean()))(trained)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in flatten(gradient).values())


def small_preset(family):
    preset = PRESETS[family]
    dims = (4, 8, 8) if "polar" in preset.vector else (4,) * len(preset.vector)
    unet = dataclasses.replace(
        preset.unet, channels=(8, 16), groups=4, layers_per_block=(1, 1), attention=(True, False), heads=(1, 2),
        context_dims=(6,), down_eps=(1e-5,) * 2, up_eps=(1e-5,) * 2, vector_dims=dims,
    )  # fmt: skip
    return dataclasses.replace(preset, unet=unet)


@pytest.fixture(scope="module")
def svd():
    preset = small_preset("sv3d_p")
    batch = {
        "latents": RNG.normal(size=(4, 3, 8, 8, 4)).astype(np.float32),
        "condition": RNG.normal(size=(4, 8, 8, 4)).astype(np.float32),
        "context": RNG.normal(size=(4, 1, 6)).astype(np.float32),
        "vector": scalar_conditions(preset, np.tile(np.float32([[0.1, 0.2, 0.3]]), (4, 1))),
    }
    params = {"unet": tiny.draw_parameters(unet_shapes(preset.unet))}
    return SvdObjective(StableUNet(preset.unet), Denoising(Karras(), "edm_v", LogNormalSigmas()), 0.5), params, batch


def test_svd_is_told_its_picture_or_nothing(svd):
    """An example that loses its picture has the loss of a batch without any, the others that of one with all."""
    objective, params, batch = svd
    losses, _ = jax.jit(objective.__call__)(params, batch, KEYS)
    with_all, _ = jax.jit(dataclasses.replace(objective, drop=0.0).__call__)(params, batch, KEYS)
    without = {**batch, "condition": 0 * batch["condition"], "context": 0 * batch["context"]}
    with_none, _ = jax.jit(dataclasses.replace(objective, drop=0.0).__call__)(params, without, KEYS)
    kept = np.isclose(losses, with_all, rtol=1e-5)
    assert 0 < kept.sum() < 4
    np.testing.assert_allclose(np.asarray(losses)[~kept], np.asarray(with_none)[~kept], rtol=1e-5)


def test_svd_loss_by_an_independent_reading(svd):
    """sgm's EDM loss with v scaling: lambda(sigma) |D(x) - x0|², D = c_skip x + c_out F(c_in x, ln(sigma) / 4)."""
    objective, params, batch = svd
    sigma = np.float32([0.5, 1.0, 3.0, 20.0])
    noise = RNG.normal(size=batch["latents"].shape).astype(np.float32)
    times = Karras().t_of_lambda(-jnp.log(sigma))
    found = objective.fixed_error(params, batch, times, noise)
    wide = sigma[:, None, None, None, None]
    noised = batch["latents"] + wide * noise
    repeated = np.broadcast_to(batch["condition"][:, None], noised.shape)
    inside = np.concatenate([noised / np.sqrt(wide**2 + 1), repeated], -1)
    raw = objective.network.apply(
        {"params": params["unet"]}, inside, np.log(sigma) / 4, batch["context"], batch["vector"]
    )
    estimate = noised / (wide**2 + 1) - wide / np.sqrt(wide**2 + 1) * np.asarray(raw)
    weight = (sigma**2 + 1) / sigma**2
    expected = weight * np.square(estimate - batch["latents"]).mean((1, 2, 3, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_which_layers_are_trained():
    names = ["unet.down_blocks.0.temporal_res_block.conv1.kernel", "unet.conv_in.kernel", "adapters.m.lora_A"]
    assert [trained_rule("temporal")(name) for name in names] == [True, False, False]
    assert [trained_rule("lora")(name) for name in names] == [False, False, True]
    shapes = flatten(unet_shapes(PRESETS["svd"].unet))
    sizes = {f"unet.{name}": int(np.prod(leaf.shape)) for name, leaf in shapes.items()}
    chosen = {name: size for name, size in sizes.items() if trained_rule("temporal")(name)}
    embedding = sum(size for name, size in chosen.items() if "add_embedding" in name)
    assert (sum(chosen.values()) - embedding, embedding) == (656_076_838, 2_624_000)


def test_emu_video_reads_first_frame_and_prompts():
    preset = PRESETS["emu_video"]
    unet = dataclasses.replace(
        preset.unet, in_channels=4, out_channels=4, condition_channels=5, channels=(8, 16), groups=4,
        layers_per_block=(1, 1), attention=(True, False), heads=(1, 2), transformer_depth=1, context_dims=(6, 10),
        down_eps=(1e-5,) * 2, up_eps=(1e-5,) * 2,
    )  # fmt: skip
    empty = {"context_0": np.zeros((5, 6), np.float32), "context_1": np.zeros((7, 10), np.float32)}
    params = {"unet": tiny.draw_parameters(unet_shapes(unet)), "empty": empty}
    batch = {
        "latents": RNG.normal(size=(4, 3, 8, 8, 4)).astype(np.float32),
        "context_0": RNG.normal(size=(4, 5, 6)).astype(np.float32),
        "context_1": RNG.normal(size=(4, 7, 10)).astype(np.float32),
    }
    objective = EmuObjective(StableUNet(unet), Denoising(Cosine(), "v"), 0.0)
    base, _ = jax.jit(objective.__call__)(params, batch, KEYS)
    other = {**batch, "context_0": batch["context_0"] + 1.0}
    assert not np.allclose(jax.jit(objective.__call__)(params, other, KEYS)[0], base)
    dropped, _ = jax.jit(dataclasses.replace(objective, drop=0.33).__call__)(params, batch, KEYS)
    assert np.isfinite(dropped).all() and not np.allclose(dropped, base)
