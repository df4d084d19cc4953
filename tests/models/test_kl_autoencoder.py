"""Stable Diffusion's and SVD's autoencoders: against diffusers on random weights, decoding by frames, sizes."""

import dataclasses

import jax
import numpy as np
import pytest

from im3d_jax.models.kl_autoencoder import KLAutoencoder, KLAutoencoderConfig, parts_of
from im3d_jax.models.layers import Conv, upsample
from im3d_jax.models.stable_blocks import UpsampledConv


IMAGE = KLAutoencoderConfig(channels=(32, 64))
VIDEO = dataclasses.replace(IMAGE, temporal_decoder=True, post_quant_conv=False)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return (
        rng.uniform(size=(2, 3, 8, 12, 3)).astype(np.float32),
        rng.normal(size=(2, 3, 4, 6, 4)).astype(np.float32),
    )


@pytest.mark.parity
@pytest.mark.parametrize("config", [IMAGE, VIDEO], ids=["image", "video"])
def test_diffusers(inputs, config):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    tools = pytest.importorskip("tests.models.torch_weights")
    images, latents = inputs
    network = KLAutoencoder(config)
    template = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    run = jax.jit(lambda p, x, z: (*network.apply(p, x, method="moments"), network.apply(p, z, method="decode")))
    arguments = dict(block_out_channels=(32, 64), layers_per_block=2, down_block_types=("DownEncoderBlock2D",) * 2)
    flat = lambda x: torch.tensor(x).flatten(0, 1).permute(0, 3, 1, 2)  # noqa: E731
    # The second time everything inside is so small that another eps in a norm would show.
    for faint in (1.0, 3e-3):
        if config.temporal_decoder:
            model = tools.randomise(diffusers.AutoencoderKLTemporalDecoder(**arguments), faint)
        else:
            up = ("UpDecoderBlock2D",) * 2
            model = tools.randomise(diffusers.AutoencoderKL(**arguments, up_block_types=up), faint)
        mean, log_variance, decoded = run({"params": tools.parameters_from(model, template)}, images, latents)
        with torch.no_grad():
            posterior = model.encode(flat(2 * images - 1)).latent_dist
            frames = dict(num_frames=3) if config.temporal_decoder else {}
            pictures = 0.5 * model.decode(flat(latents), **frames).sample + 0.5
        for ours, theirs in ((mean, posterior.mean), (log_variance, posterior.logvar), (decoded, pictures)):
            theirs = theirs.permute(0, 2, 3, 1).reshape(ours.shape).numpy()
            assert tools.relative(ours, theirs) < (2e-5 if faint == 1.0 else 1e-4)


@pytest.fixture(scope="module")
def small():
    """A temporal decoder and what it makes of a video: whole and one frame at a time, with bytes of memory."""
    network = KLAutoencoder(dataclasses.replace(VIDEO, channels=(8, 16), layers_per_block=1, groups=2))
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 2, 4, 4, 3), np.float32))
    rng = np.random.default_rng(1)
    parameters = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    latents = rng.normal(size=(1, 12, 8, 12, 4)).astype(np.float32)
    decode = jax.jit(lambda p, z, at_once: network.apply(p, z, at_once, method="decode"), static_argnums=2)
    results = []
    for at_once in (None, 1):
        compiled = decode.lower(parameters, latents, at_once).compile()
        results.append((np.asarray(compiled(parameters, latents)), compiled.memory_analysis().temp_size_in_bytes))
    latents[:, -1] += 1.0
    # Frames see each other, so cutting the video would not be the same.
    assert np.abs(np.asarray(compiled(parameters, latents))[:, 0] - results[-1][0][:, 0]).max() > 1e-3
    return results


def test_decoding_some_frames_at_a_time_is_exact(small):
    (whole, _), (parts, _) = small
    assert whole.shape == (1, 12, 16, 24, 3) and whole.std() > 0.01
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5 * whole.std())


def test_decoding_some_pictures_at_a_time_is_exact(inputs):
    network = KLAutoencoder(IMAGE)
    shapes = jax.eval_shape(network.init, jax.random.key(0), inputs[0])
    rng = np.random.default_rng(2)
    parameters = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    decode = jax.jit(lambda p, z, at_once: network.apply(p, z, at_once, method="decode"), static_argnums=2)
    whole, one = (np.asarray(decode(parameters, inputs[1], at_once)) for at_once in (None, 1))
    assert whole.std() > 0.01
    np.testing.assert_allclose(one, whole, rtol=1e-5, atol=1e-5 * whole.std())


def test_memory_of_decoding_some_frames_at_a_time(small):
    """Two maps of the video: what a temporal layer reads, and what lies between its halves."""
    (_, whole), (_, parts) = small
    widest = 12 * 16 * 24 * 8 * 4
    # A third one is of the statistics, which CPUs reduce from an array. Loops that collect new maps took five.
    assert parts < 4 * widest
    assert whole > 2 * parts


def test_upsampling_and_convolution_in_one():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 3, 5, 7, 6)).astype(np.float32)
    plain, joined = Conv(4), UpsampledConv(4)
    parameters = jax.tree.map(lambda leaf: leaf + 0.3, plain.init(jax.random.key(0), x))
    assert jax.tree.map(np.shape, joined.init(jax.random.key(0), x)) == jax.tree.map(np.shape, parameters)
    want = np.asarray(plain.apply(parameters, upsample(x)))
    assert want.shape == (2, 3, 10, 14, 4)
    np.testing.assert_allclose(joined.apply(parameters, x), want, rtol=1e-5, atol=1e-5 * want.std())


def test_parts_are_equal_and_small_enough():
    assert [parts_of(21, least) for least in (0.2, 1, 2.5, 7, 8)] == [1, 1, 3, 7, 21]
    assert parts_of(25, 8.3) == 25


def test_sizes_that_do_not_halve():
    with pytest.raises(ValueError, match="6x9, but sides must be multiples of 2"):
        jax.eval_shape(lambda: KLAutoencoder(IMAGE).init(jax.random.key(0), np.zeros((1, 1, 6, 9, 3), np.float32)))
