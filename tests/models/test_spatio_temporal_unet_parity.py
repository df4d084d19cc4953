"""The large UNets against diffusers' on random weights, in float32."""

import dataclasses
import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from im3d_jax.models.spatio_temporal_unet import SpatioTemporalUNet, SpatioTemporalUNetConfig


pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

_spec = importlib.util.spec_from_file_location("foreign", pathlib.Path(__file__).with_name("foreign.py"))
foreign = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(foreign)

FRAMES, HEIGHT, WIDTH = 3, 8, 12
SMALL = dict(channels=(32, 64), layers_per_block=(1, 1), attention=(True, False), heads=(2, 4), context_dims=(24,))
# diffusers has another eps in the blocks with attention and on the way up.
SVD = SpatioTemporalUNetConfig(
    **SMALL, vector_dims=(16, 16, 16), down_eps=(1e-6, 1e-5), up_eps=(1e-6, 1e-6), mid_eps=1e-5, out_eps=1e-5
)
# Its first level alone, which compiles in half the time.
ONE_LEVEL = dataclasses.replace(
    SVD, channels=(32,), layers_per_block=(1,), attention=(True,), heads=(2,), down_eps=(1e-6,), up_eps=(1e-6,)
)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, FRAMES, HEIGHT, WIDTH, 8)).astype(np.float32)
    context = rng.normal(size=(2, 5, 24)).astype(np.float32)
    return x, np.float32([1.6378, 1.6378]), context, np.float32([[5, 127, 0.02], [6, 30, 0.5]])


def svd_of_diffusers(levels, faint=1.0):
    return foreign.randomise(
        diffusers.UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64)[:levels], num_attention_heads=(2, 4)[:levels], cross_attention_dim=24,
            num_frames=FRAMES, addition_time_embed_dim=16, projection_class_embeddings_input_dim=48, layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal")[:levels],
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")[-levels:],
        ),
        faint,
    )  # fmt: skip


def compare(config, models, x, time, context, vector):
    """The relative difference for each model, all by one compiled network."""
    network = SpatioTemporalUNet(config)
    template = jax.eval_shape(network.init, jax.random.key(0), x, time, context, vector)["params"]
    compiled = jax.jit(network.apply)
    differences = []
    for model in models:
        ours = compiled({"params": foreign.parameters_from(model, template)}, x, time, context, vector)
        with torch.no_grad():
            theirs = model(*map(torch.tensor, (x.transpose(0, 1, 4, 2, 3), time[0], context, vector))).sample
        differences.append(foreign.relative(ours, theirs.numpy().transpose(0, 1, 3, 4, 2)))
    return differences


def test_svd_and_its_norms_eps(inputs):
    x, time, context, vector = inputs
    models = [svd_of_diffusers(2), svd_of_diffusers(2, faint=3e-3)]
    plain, faint = compare(SVD, models, x, time, context[:, :1], vector)
    assert plain < 2e-5
    assert faint < 1e-4


def test_svd_with_a_longer_context(inputs):
    assert compare(ONE_LEVEL, [svd_of_diffusers(1)], *inputs)[0] < 2e-5


@pytest.mark.parametrize("version", ["1.5", "2.1"])
def test_stable_diffusion(inputs, version):
    x, _, context, _ = inputs
    x, heads = x[:, :1, ..., :4], (2, 2) if version == "1.5" else (2, 4)
    model = foreign.randomise(
        diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64), cross_attention_dim=24, layers_per_block=1, attention_head_dim=heads,
            use_linear_projection=version == "2.1",
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
    )  # fmt: skip
    config = SpatioTemporalUNetConfig(
        **{**SMALL, "heads": heads},
        in_channels=4,
        temporal="none",
        vector_dims=(),
        down_eps=(1e-5,) * 2,
        up_eps=(1e-5,) * 2,
    )
    network, time = SpatioTemporalUNet(config), np.float32([981, 981])
    template = jax.eval_shape(network.init, jax.random.key(0), x, time, context)["params"]
    pointwise = r"\.proj_(in|out)$" if version == "1.5" else None
    parameters = foreign.parameters_from(model, template, pointwise=pointwise)
    ours = jax.jit(network.apply)({"params": parameters}, x, time, context)
    with torch.no_grad():
        theirs = model(torch.tensor(x[:, 0].transpose(0, 3, 1, 2)), 981, torch.tensor(context)).sample
    assert foreign.relative(ours[:, 0], theirs.numpy().transpose(0, 2, 3, 1)) < 2e-5
