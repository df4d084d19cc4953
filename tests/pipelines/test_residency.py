"""Networks on a device: frames in chunks, and where flash attention is."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.pipelines.memory import MEMORIES, frames_at_once
from im3d_jax.pipelines.residency import ChunkedAutoencoder, Parameters, has_flash_attention, unet_of
from im3d_jax.pipelines.sources import CheckpointSource
from im3d_jax.weights.checkpoints import open_checkpoint
from im3d_jax.weights.miniature import miniature
from im3d_jax.weights.presets import PRESETS


@pytest.fixture(scope="module")
def source(checkpoints):
    return CheckpointSource(open_checkpoint(checkpoints["sv3d_u"], preset=miniature("sv3d_u")))


def test_frames_at_once_divide():
    assert [frames_at_once(21, most) for most in (1, 3, 7, 8)] == [1, 3, 7, 7]
    assert frames_at_once(25, 4) == 1


@pytest.mark.parametrize(
    "capability, platform, flash",
    [("9.0", "gpu", True), ("10.0", "gpu", True), ("8.0", "cuda", True), ("7.5", "gpu", False), ("", "tpu", False)],
)
def test_flash_attention_where_cudnn_has_it(capability, platform, flash):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    assert has_flash_attention(device) == flash
    network = unet_of(PRESETS["sv3d_u"], jnp.bfloat16, device)
    other = "tpu" if platform == "tpu" else "xla"  # Pallas' kernel takes float32 too
    assert network.config.attention_implementation == ("cudnn" if flash else other)
    assert unet_of(PRESETS["sv3d_u"], jnp.float32, device).config.attention_implementation == other


def test_parts_come_and_go(source):
    held, kept = (Parameters(source, jnp.float32, keep) for keep in (False, True))
    for parameters, same in ((held, False), (kept, True)):
        first = parameters("encoder")
        assert parameters("encoder") is first
        parameters.release("encoder", "unet")
        assert (parameters("encoder") is first) == same


def test_chunks_do_not_show(source):
    """One frame at a time or all together: the same latents and pictures."""
    images = np.random.default_rng(0).uniform(size=(5, 32, 32, 3)).astype(np.float32)
    made = []
    for memory in ("16gb", "80gb"):
        parameters = Parameters(source, jnp.float32, True)
        autoencoder = ChunkedAutoencoder(source.preset, parameters, MEMORIES[memory], jnp.float32)
        latents = autoencoder.encode(jnp.asarray(images))
        made.append((latents, autoencoder.decode_batch(parameters("vae"), latents[None])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *made)
