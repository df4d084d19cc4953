"""The large UNets against diffusers' on random weights, in float32."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from im3d_jax.models.stable_unet import StableUNet, StableUNetConfig


pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

torch_weights = pytest.importorskip("tests.models.torch_weights")

FRAMES, HEIGHT, WIDTH = 3, 8, 12
SMALL = dict(channels=(32, 64), layers_per_block=(1, 1), attention=(True, False), heads=(2, 4), context_dims=(24,))
# diffusers has another eps in the blocks with attention and on the way up.
SVD = StableUNetConfig(
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
    return torch_weights.randomise(
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
    network = StableUNet(config)
    template = jax.eval_shape(network.init, jax.random.key(0), x, time, context, vector)["params"]
    compiled = jax.jit(network.apply)
    differences = []
    for model in models:
        ours = compiled({"params": torch_weights.parameters_from(model, template)}, x, time, context, vector)
        with torch.no_grad():
            theirs = model(*map(torch.tensor, (x.transpose(0, 1, 4, 2, 3), time[0], context, vector))).sample
        differences.append(torch_weights.relative(ours, theirs.numpy().transpose(0, 1, 3, 4, 2)))
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
    model = torch_weights.randomise(
        diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64), cross_attention_dim=24, layers_per_block=1, attention_head_dim=heads,
            use_linear_projection=version == "2.1",
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
    )  # fmt: skip
    config = StableUNetConfig(
        **{**SMALL, "heads": heads},
        in_channels=4,
        temporal="none",
        vector_dims=(),
        down_eps=(1e-5,) * 2,
        up_eps=(1e-5,) * 2,
    )
    network, time = StableUNet(config), np.float32([981, 981])
    template = jax.eval_shape(network.init, jax.random.key(0), x, time, context)["params"]
    pointwise = r"\.proj_(in|out)$" if version == "1.5" else None
    parameters = torch_weights.parameters_from(model, template, pointwise=pointwise)
    ours = jax.jit(network.apply)({"params": parameters}, x, time, context)
    with torch.no_grad():
        theirs = model(torch.tensor(x[:, 0].transpose(0, 3, 1, 2)), 981, torch.tensor(context)).sample
    assert torch_weights.relative(ours[:, 0], theirs.numpy().transpose(0, 2, 3, 1)) < 2e-5


def sinusoids(values, dim):
    """Cosines first, in double precision."""
    angles = np.float64(values)[..., None] * np.exp(-math.log(10_000.0) * np.arange(dim // 2) / (dim // 2))
    return torch.tensor(np.concatenate([np.cos(angles), np.sin(angles)], -1)).float()


def test_sv3d_with_angles_of_each_frame(inputs):
    """SV3D_p's conditions have several widths and other values in every frame; diffusers' blocks are given the sum."""
    from diffusers.models.resnet import SpatioTemporalResBlock

    x, time, context, _ = inputs
    dims, context = (16, 32, 32), context[:, :1]
    vector = np.random.default_rng(1).uniform(0, 6, (2, FRAMES, 3)).astype(np.float32)
    model = torch_weights.randomise(
        diffusers.UNetSpatioTemporalConditionModel(
            block_out_channels=(32,), num_attention_heads=(2,), cross_attention_dim=24, num_frames=FRAMES,
            addition_time_embed_dim=16, projection_class_embeddings_input_dim=sum(dims), layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal",), up_block_types=("CrossAttnUpBlockSpatioTemporal",),
        )
    )  # fmt: skip
    network = StableUNet(dataclasses.replace(ONE_LEVEL, vector_dims=dims))
    template = jax.eval_shape(network.init, jax.random.key(0), x, time, context, vector)["params"]
    parameters = torch_weights.parameters_from(model, template)
    ours = jax.jit(network.apply)({"params": parameters}, x, time, context, vector)
    with torch.no_grad():
        scalars = torch.cat([sinusoids(vector[..., i], dim) for i, dim in enumerate(dims)], -1)
        of_time = model.time_embedding(model.time_proj(torch.tensor(time)))
        embedding = (of_time[:, None] + model.add_embedding(scalars)).flatten(0, 1)
        for module in model.modules():
            if isinstance(module, SpatioTemporalResBlock):
                replace = lambda module, arguments: (arguments[0], embedding, *arguments[2:])  # noqa: E731
                module.register_forward_pre_hook(replace)
        model.add_time_proj.forward = lambda values: torch.zeros(len(values), 16)
        model.add_embedding.forward = lambda values: torch.zeros(2, 128)
        ids, frames = torch.zeros(2, 3), torch.tensor(x.transpose(0, 1, 4, 2, 3))
        theirs = model(frames, torch.tensor(time[0]), torch.tensor(context), ids).sample
    assert torch_weights.relative(ours, theirs.numpy().transpose(0, 1, 3, 4, 2)) < 2e-5


class FramesLinear(torch.nn.Module):
    """x plus a convolution over frames, as a linear layer on every frame between its neighbours; zeros at the ends."""

    def __init__(self, channels):
        super().__init__()
        self.conv = torch.nn.Linear(3 * channels, channels)

    def forward(self, x):
        """Of [B T, C, H, W]."""
        frames = x.unflatten(0, (-1, FRAMES)).movedim(2, -1)
        end = torch.zeros_like(frames[:, :1])
        padded = torch.cat([end, frames, end], 1)
        near = torch.cat([padded[:, i : i + FRAMES] for i in range(3)], -1)
        return x + self.conv(near).movedim(-1, 2).flatten(0, 1)


class FramesBlock(torch.nn.Module):
    """Attention over the frames of each pixel, numbers of frames added, then GEGLU, both on [B T, N, C]."""

    def __init__(self, channels, heads):
        from diffusers.models.attention import FeedForward
        from diffusers.models.attention_processor import Attention

        super().__init__()
        self.norm1, self.norm3 = torch.nn.LayerNorm(channels), torch.nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads=heads, dim_head=channels // heads)
        self.ff = FeedForward(channels, activation_fn="geglu")

    def forward(self, x):
        batch, pixels, channels = len(x) // FRAMES, x.shape[1], x.shape[2]
        rows = x.unflatten(0, (batch, FRAMES)).transpose(1, 2).flatten(0, 1)
        rows = rows + self.attn1(self.norm1(rows) + sinusoids(np.arange(FRAMES), channels))
        x = rows.unflatten(0, (batch, pixels)).transpose(1, 2).flatten(0, 1)
        return x + self.ff(self.norm3(x))


def test_emu_video(inputs):
    """Its layout read once more: diffusers' picture network with temporal layers and a second text put into it."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    rng = np.random.default_rng(2)
    x, time, first, _ = inputs
    x, second = x[..., :4], rng.normal(size=(2, 7, 12)).astype(np.float32)
    condition = rng.normal(size=(2, HEIGHT, WIDTH, 5)).astype(np.float32)
    time = np.float32([501, 501])
    model = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), cross_attention_dim=24, layers_per_block=1, attention_head_dim=(2, 4),
        use_linear_projection=True, transformer_layers_per_block=2, in_channels=4, out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    every = lambda context: torch.tensor(context).repeat_interleave(FRAMES, 0)  # noqa: E731

    def with_second_text(block, hidden):
        hidden = hidden + block.attn1(block.norm1(hidden))
        hidden = hidden + block.attn2(block.norm2(hidden), every(first))
        hidden = hidden + block.attn2_context1(block.norm2_context1(hidden), every(second))
        return hidden + block.ff(block.norm3(hidden))

    for module in list(model.modules()):
        if isinstance(module, ResnetBlock2D):
            for number, conv in enumerate((module.conv1, module.conv2), 1):
                temporal = FramesLinear(conv.out_channels)
                module.add_module(f"temporal_conv{number}", temporal)
                conv.register_forward_hook(lambda conv, arguments, y, temporal=temporal: temporal(y))
        elif isinstance(module, Transformer2DModel):
            module.temporal_blocks = torch.nn.ModuleList()
            for block in module.transformer_blocks:
                channels, heads = block.norm1.normalized_shape[0], block.attn1.heads
                block.norm2_context1 = torch.nn.LayerNorm(channels)
                block.attn2_context1 = Attention(channels, 12, heads=heads, dim_head=channels // heads)
                temporal = FramesBlock(channels, heads)
                module.temporal_blocks.append(temporal)
                block.forward = lambda hidden, *_, block=block, temporal=temporal, **__: temporal(
                    with_second_text(block, hidden)
                )
                assert isinstance(block, BasicTransformerBlock)
    model.conv_in_condition = torch.nn.Conv2d(5, 32, 3, padding=1, bias=False)

    def widen(conv, arguments, y):
        y = y.unflatten(0, (2, FRAMES)).clone()
        y[:, 0] += model.conv_in_condition(torch.tensor(condition.transpose(0, 3, 1, 2)))
        return y.flatten(0, 1)

    model.conv_in.register_forward_hook(widen)
    torch_weights.randomise(model)
    config = StableUNetConfig(
        channels=(32, 64), layers_per_block=(1, 1), attention=(True, False), heads=(2, 4), context_dims=(24, 12),
        in_channels=4, condition_channels=5, transformer_depth=2, temporal="residual", vector_dims=(),
        down_eps=(1e-5,) * 2, up_eps=(1e-5,) * 2,
    )  # fmt: skip
    network = StableUNet(config)
    call = lambda variables: network.apply(variables, x, time, (first, second), condition=condition)  # noqa: E731
    template = jax.eval_shape(
        lambda key: network.init(key, x, time, (first, second), condition=condition), jax.random.key(0)
    )["params"]
    ours = jax.jit(call)({"params": torch_weights.parameters_from(model, template)})
    with torch.no_grad():
        pictures = torch.tensor(x.transpose(0, 1, 4, 2, 3)).flatten(0, 1)
        theirs = model(pictures, 501, every(first)).sample.unflatten(0, (2, FRAMES))
    assert torch_weights.relative(ours, theirs.numpy().transpose(0, 1, 3, 4, 2)) < 2e-5
