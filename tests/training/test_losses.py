"""Losses of the stages: targets by an own formula, conditions dropped as often as they should be."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.diffusion import Cosine
from im3d_jax.training import losses


PROCESS = Cosine()
NOTHING = lambda flat: ({}, {})  # noqa: E731


class Network:
    """Stands for a UNet: answers by `answer(x, time)` and keeps what it was told."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def apply(self, variables, x, time, context, mask, **condition):
        self.calls.append(types.SimpleNamespace(x=x, time=time, context=context, mask=mask, **condition))
        return self.answer(x, time)


class Words:
    """Stands for a text encoder: hands the tokens through."""

    @staticmethod
    def apply(variables, tokens):
        return tokens, tokens != 0


def oracle(latents):
    """The velocity of known clean latents on the cosine process: (cos(πt/2) x - x0) / sin(πt/2)."""

    def answer(x, time):
        angle = time.reshape(-1, 1, 1, 1, 1) * jnp.pi / 2
        return (jnp.cos(angle) * x - latents[:, : x.shape[1]]) / jnp.sin(angle)

    return answer


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    tokens = np.tile(np.array([[1, 5, 6, 0]], np.int32), (4000, 1))
    return {
        "latents": jnp.asarray(rng.normal(size=(4000, 2, 1, 1, 2)), jnp.float32),
        "tokens": jnp.asarray(tokens),
    }


def test_a_perfect_network_has_no_loss(batch):
    part = jax.tree.map(lambda a: a[:64], batch)
    for weight in (0.0, 0.5):
        network = Network(oracle(part["latents"]))
        loss = losses.video_loss(network, Words, NOTHING, PROCESS, image_weight=weight)
        value, metrics = loss({}, {}, part, jax.random.key(0))
        assert float(value) < 1e-5
        assert [call.x.shape[1] for call in network.calls] == ([2, 1] if weight else [2])
        assert set(metrics) == ({"video", "image"} if weight else {"video"})
    frames = {**part, "latents": part["latents"][:, 0]}
    value, _ = losses.image_loss(Network(oracle(part["latents"])), Words, NOTHING, PROCESS)(
        {}, {}, frames, jax.random.key(0)
    )
    assert float(value) < 1e-5


def test_an_offset_of_one_costs_one(batch):
    """The loss is the plain mean square whatever the time; single frames count fully in their share of the steps."""
    part = jax.tree.map(lambda a: a[:64], batch)
    perfect = oracle(part["latents"])
    network = Network(lambda x, time: perfect(x, time) + 1.0)
    loss = losses.video_loss(network, Words, NOTHING, PROCESS, image_weight=0.25)
    values, metrics = jax.jit(jax.vmap(lambda key: loss({}, {}, part, key)))(jax.random.split(jax.random.key(1), 400))
    with_image = np.asarray(values) > 1.5
    np.testing.assert_allclose(values, np.where(with_image, 2.0, 1.0), atol=2e-3)
    assert with_image.mean() == pytest.approx(0.25, abs=0.06)
    np.testing.assert_allclose(metrics["video"], 1.0, atol=1e-3)
    np.testing.assert_allclose(metrics["image"], np.where(with_image, 4.0, 0.0), atol=4e-3)


def test_times_are_uniform_and_noise_is_normal(batch):
    network = Network(lambda x, time: jnp.zeros_like(x))
    losses.video_loss(network, Words, NOTHING, PROCESS)({}, {}, batch, jax.random.key(2))
    (call,) = network.calls
    counts, _ = np.histogram(call.time, bins=10, range=(0, 1))
    assert counts.sum() == 4000 and counts.min() > 320 and counts.max() < 480
    angle = np.asarray(call.time).reshape(-1, 1, 1, 1, 1) * np.pi / 2
    noise = (np.asarray(call.x) - np.cos(angle) * np.asarray(batch["latents"])) / np.sin(angle)
    noise = noise[np.asarray(call.time) > 0.05]
    assert abs(noise.mean()) < 0.03 and noise.std() == pytest.approx(1, abs=0.03)


def test_how_often_video_conditions_are_dropped(batch):
    """A tenth loses the prompt, a tenth the picture, a tenth both: the branches of nested guidance."""
    network = Network(lambda x, time: jnp.zeros_like(x))
    losses.video_loss(network, Words, NOTHING, PROCESS, drop=0.1)({}, {}, batch, jax.random.key(3))
    (call,) = network.calls
    tokens, picture = np.asarray(call.context), np.asarray(call.has_image)
    without = (tokens == [1, 0, 0, 0]).all(1)
    assert (without | (tokens == [1, 5, 6, 0]).all(1)).all() and set(picture) == {0.0, 1.0}
    for prompt, image, wanted in (
        (False, False, 0.1),
        (True, False, 0.1),
        (False, True, 0.1),
        (True, True, 0.7),
    ):
        share = ((without != prompt) & (picture == image)).mean()
        assert share == pytest.approx(wanted, abs=0.02), (prompt, image)


def test_the_picture_is_the_first_frame_with_a_little_noise(batch):
    network = Network(lambda x, time: jnp.zeros_like(x))
    losses.video_loss(network, Words, NOTHING, PROCESS, condition_noise=0.1)({}, {}, batch, jax.random.key(4))
    difference = np.asarray(network.calls[0].condition - batch["latents"][:, 0])
    # Uniform strengths up to 0.1 make a deviation of 0.1 / sqrt(3).
    assert difference.std() == pytest.approx(0.1 / 3**0.5, rel=0.1)
    losses.video_loss(network, Words, NOTHING, PROCESS, condition_noise=0.0)({}, {}, batch, jax.random.key(4))
    np.testing.assert_array_equal(network.calls[1].condition, batch["latents"][:, 0])


def test_image_loss_skips_temporal_layers_and_drops_prompts(batch):
    network = Network(lambda x, time: jnp.zeros_like(x))
    frames = {**batch, "latents": batch["latents"][:, 0]}
    losses.image_loss(network, Words, NOTHING, PROCESS, drop=0.1)({}, {}, frames, jax.random.key(5))
    (call,) = network.calls
    assert call.temporal is False and call.x.shape == (4000, 1, 1, 1, 2)
    dropped = (np.asarray(call.context) == [1, 0, 0, 0]).all(1)
    assert dropped.mean() == pytest.approx(0.1, abs=0.02)


def test_keys_change_everything_drawn(batch):
    network = Network(lambda x, time: jnp.zeros_like(x))
    loss = losses.video_loss(network, Words, NOTHING, PROCESS)
    for seed in (0, 0, 1):
        loss({}, {}, batch, jax.random.key(seed))
    a, b, c = network.calls
    np.testing.assert_array_equal(a.x, b.x)
    for name in ("x", "time", "condition", "has_image"):
        assert not np.array_equal(getattr(a, name), getattr(c, name)), name


class Mirror:
    """Stands for an autoencoder that returns its input; the posterior is N(1, e²)."""

    config = types.SimpleNamespace(factor=4, latent_channels=2)

    @staticmethod
    def apply(variables, images, noise, method):
        assert noise.shape == (len(images), 2, 2, 2)
        Mirror.seen = images
        return images + 0.1, jnp.ones_like(noise), jnp.full_like(noise, 2.0)


def test_autoencoder_loss():
    rgba = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 4), np.uint8)
    loss = losses.autoencoder_loss(Mirror, lambda flat: {}, kl_weight=0.5)
    value, metrics = loss({}, {}, {"rgba": jnp.asarray(rgba)}, jax.random.key(0))
    kl = 0.5 * (1 + np.exp(2.0) - 1 - 2)
    assert float(metrics["kl"]) == pytest.approx(kl, rel=1e-5)
    assert float(metrics["psnr"]) == pytest.approx(20, abs=1e-3)
    assert float(value) == pytest.approx(0.1 + 0.01 + 0.5 * kl, rel=1e-4)
    straight = rgba.astype(np.float64) / 255
    alpha = straight[..., 3:]
    white = np.concatenate([straight[..., :3] * alpha + 1 - alpha, alpha], -1)
    mirrored = 0
    for seen, picture in zip(np.asarray(Mirror.seen), white, strict=True):
        turned = not np.allclose(seen, picture, atol=1e-5)
        mirrored += turned
        np.testing.assert_allclose(seen, picture[:, ::-1] if turned else picture, atol=1e-5)
    assert 16 < mirrored < 48


def test_elevation_loss():
    head = types.SimpleNamespace(apply=lambda variables, latents: jnp.zeros(len(latents)))
    batch = {"latents": jnp.zeros((2, 4, 2, 2, 3)), "elevation": jnp.asarray([0.2, 0.4])}
    value, metrics = losses.elevation_loss(head, lambda flat: {})({}, {}, batch, jax.random.key(0))
    assert float(value) == pytest.approx(0.1, rel=1e-5)
    assert float(metrics["degrees"]) == pytest.approx(np.degrees(0.3), rel=1e-5)


def test_times_are_uniform_but_for_the_share_at_high_noise(batch):
    for share in (0.0, 0.5):
        network = Network(oracle(batch["latents"]))
        losses.video_loss(network, Words, NOTHING, PROCESS, high_noise=share)({}, {}, batch, jax.random.key(5))
        time = np.asarray(network.calls[0].time)
        assert time.min() >= 0 and time.max() <= 1
        np.testing.assert_allclose((time > 0.8).mean(), share + 0.2 * (1 - share), atol=0.03)
        np.testing.assert_allclose((time < 0.4).mean(), 0.4 * (1 - share), atol=0.03)
