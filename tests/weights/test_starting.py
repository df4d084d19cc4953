"""A video network made from a picture network draws the same frames before training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.errors import WeightsError
from im3d_jax.models.stable_unet import StableUNet, StableUNetConfig
from im3d_jax.weights.names.networks import unet_shapes
from im3d_jax.weights.starting import video_from_pictures
from im3d_jax.weights.trees import flatten


PICTURES = StableUNetConfig(
    in_channels=4, out_channels=4, channels=(8,), layers_per_block=(1,), attention=(True,), heads=(1,),
    context_dims=(6,), vector_dims=(), temporal="none", groups=4, down_eps=(1e-5,), up_eps=(1e-5,),
)  # fmt: skip
BLENDED = dataclasses.replace(PICTURES, temporal="blended", in_channels=8, vector_dims=(4,))
RESIDUAL = dataclasses.replace(PICTURES, temporal="residual", condition_channels=5, context_dims=(6, 3))


@pytest.fixture(scope="module")
def setting():
    """A random picture network, inputs, and the frames it draws."""
    rng = np.random.default_rng(0)
    pictures = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), unet_shapes(PICTURES))
    x, context = (rng.normal(size=s).astype(np.float32) for s in ((1, 3, 4, 6, 4), (1, 2, 6)))
    frames = jax.jit(StableUNet(PICTURES).apply)({"params": pictures}, x, np.float32([0.7]), context)
    return pictures, x, context, frames


@pytest.mark.parametrize("config", [BLENDED, RESIDUAL], ids=["blended", "residual"])
def test_frames_are_the_pictures(setting, config):
    pictures, x, context, frames = setting
    params = video_from_pictures(config, pictures, jax.random.key(0))
    arguments, named = (x, np.float32([0.7]), context), {}
    if config is BLENDED:
        conditioned = jnp.concatenate([x, jnp.ones_like(x)], axis=-1)
        arguments = (conditioned, np.float32([0.7]), context, np.float32([[0.3]]))
    else:
        arguments = (x, np.float32([0.7]), (context, np.ones((1, 2, 3), np.float32)))
        named = dict(condition=np.ones((1, 4, 6, 5), np.float32))
    run = jax.jit(StableUNet(config).apply)
    video = run({"params": params}, *arguments, **named)
    np.testing.assert_allclose(video, frames, rtol=1e-5, atol=1e-5 * np.abs(frames).max())
    if config is RESIDUAL:
        params["conv_in_condition"]["kernel"] += 0.1
        assert np.abs(run({"params": params}, *arguments, **named) - frames).max() > 1e-3
    # Not all new layers are zero, or nothing could learn.
    new = [leaf for name, leaf in flatten(params).items() if "temporal_" in name and name.endswith("kernel")]
    assert sum(bool(jnp.any(leaf)) for leaf in new) > len(new) // 3


def test_sizes_must_agree(setting):
    pictures = setting[0]
    with pytest.raises(WeightsError, match="sizes must agree"):
        video_from_pictures(dataclasses.replace(BLENDED, context_dims=(7,)), pictures, jax.random.key(0))
    with pytest.raises(WeightsError, match="parameters that the video network lacks"):
        video_from_pictures(dataclasses.replace(BLENDED, attention=(False,)), pictures, jax.random.key(0))
