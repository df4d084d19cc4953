"""Low-rank adapters: nothing at first, the sum of both afterwards, files as diffusers has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.errors import WeightsError
from im3d_jax.models import StableUNet, StableUNetConfig
from im3d_jax.training import lora
from im3d_jax.weights import flatten, load_safetensors, save_safetensors
from im3d_jax.weights.names.networks import unet_shapes
from tests.tiny import draw_parameters


CONFIG = StableUNetConfig(
    channels=(8, 16), groups=4, layers_per_block=(1, 1), attention=(True, False), heads=(1, 2), context_dims=(6,),
    vector_dims=(4,), down_eps=(1e-5,) * 2, up_eps=(1e-5,) * 2,
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return draw_parameters(unet_shapes(CONFIG))


@pytest.fixture(scope="module")
def adapters(params):
    made = lora.create_adapters(jax.random.key(0), params, rank=2)
    return jax.tree.map(lambda leaf: leaf + 0.1, made)


def test_new_adapters_change_nothing(params):
    made = lora.create_adapters(jax.random.key(0), params, rank=2)
    jax.tree.map(np.testing.assert_array_equal, lora.add_adapters(params, made), params)
    spatial = [name for name in flatten(params) if lora.spatial_attention(name)]
    assert len(made) == len(spatial) > 0 and not any("temporal" in module for module in made)


def test_adapted_kernels_are_the_sum(params, adapters):
    found = flatten(lora.add_adapters(params, adapters, scale=0.5))
    for name, value in flatten(params).items():
        adapter = adapters.get(name.removesuffix(".kernel"))
        wanted = value if adapter is None else value + 0.5 * np.asarray(adapter["lora_A"]) @ adapter["lora_B"]
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)


def test_gradients_reach_adapters_alone(params):
    made = lora.create_adapters(jax.random.key(0), params, rank=2)
    network = StableUNet(CONFIG)
    x, context = jnp.ones((1, 2, 4, 4, 8)), jnp.ones((1, 1, 6))

    def loss(adapters):
        merged = lora.add_adapters(params, adapters)
        return network.apply({"params": merged}, x, jnp.ones(1), context, jnp.ones((1, 1))).sum()

    gradient = jax.jit(jax.grad(loss))(made)
    moved = {name: float(jnp.abs(part["lora_B"]).max()) for name, part in gradient.items()}
    # A context of one token needs no queries and keys.
    assert all(value > 0 for name, value in moved.items() if "attn1" in name)


def test_files(adapters, tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    lora.save_adapters(path, adapters)
    stored = load_safetensors(path)
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    assert stored[f"{name}.lora_A.weight"].shape == (2, 8) and stored[f"{name}.lora_B.weight"].shape == (8, 2)
    jax.tree.map(np.testing.assert_array_equal, lora.load_adapters(path), adapters)
    stored.pop(f"{name}.lora_B.weight")
    save_safetensors(path, stored)
    with pytest.raises(WeightsError, match="holds only lora_A of the adapter of down_blocks.0"):
        lora.load_adapters(path)
    save_safetensors(path, {**stored, "unet.conv_in.weight": np.zeros(1, np.float32)})
    with pytest.raises(WeightsError, match="holds unet.conv_in.weight; expected unet.<module>.lora_A.weight"):
        lora.load_adapters(path)


def test_a_rule_that_chooses_nothing_is_refused(params):
    with pytest.raises(ValueError, match="no kernel"):
        lora.create_adapters(jax.random.key(0), params, 2, lambda name: False)


@pytest.mark.parity
def test_diffusers_draws_with_the_adapters_as_we_do(params, adapters, tmp_path):
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    theirs = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), num_attention_heads=(2, 4), cross_attention_dim=24, num_frames=3,
        addition_time_embed_dim=16, projection_class_embeddings_input_dim=16, layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )  # fmt: skip
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    module = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    rows, columns = shapes[f"{module}.weight"]
    adapter = {module: {"lora_A": np.ones((columns, 2), np.float32), "lora_B": np.full((2, rows), 0.5, np.float32)}}
    lora.save_adapters(tmp_path / "pytorch_lora_weights.safetensors", adapter)
    before = theirs.state_dict()[f"{module}.weight"].clone()
    theirs.load_lora_adapter(str(tmp_path), prefix="unet")
    theirs.fuse_lora()
    after = dict(theirs.named_parameters())[f"{module}.base_layer.weight"]
    difference = (after - before).detach().numpy()
    np.testing.assert_allclose(difference, (adapter[module]["lora_A"] @ adapter[module]["lora_B"]).T, atol=1e-5)
