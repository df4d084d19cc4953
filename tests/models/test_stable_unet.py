"""The large UNets: sizes, what each temporal layout does at its edges, wrong inputs."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.models import StableUNet, StableUNetConfig, is_temporal_parameter
from im3d_jax.models.layers import TemporalConv
from im3d_jax.models.stable_attention import ContextAttention, ResidualTemporalBlock
from im3d_jax.weights.trees import flatten


TINY = StableUNetConfig(
    in_channels=4, out_channels=4, channels=(8, 16), layers_per_block=(1, 1), attention=(False, True), heads=(1, 2),
    context_dims=(6,), vector_dims=(4,), groups=4, down_eps=(1e-5,) * 2, up_eps=(1e-5,) * 2,
)  # fmt: skip


def random_parameters(network, *arguments, **named):
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), *arguments, **named))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 4, 6, 4)).astype(np.float32)
    return x, np.float32([0.7]), rng.normal(size=(1, 1, 6)).astype(np.float32), np.float32([[0.3]])


@pytest.fixture(scope="module")
def blended(inputs):
    network = StableUNet(TINY)
    return network, {"params": random_parameters(network, *inputs)}


def test_names_of_temporal_parameters(blended):
    names = flatten(blended[1]["params"])
    temporal = [name for name in names if is_temporal_parameter(name)]
    assert any("time_mixer.mix_factor" in name for name in temporal)
    assert any("temporal_res_block" in name for name in temporal)
    assert not any(
        part in name for name in temporal for part in ("time_embedding", "spatial_res_block", "add_embedding")
    )


def test_one_token_equals_the_same_token_twice():
    rng = np.random.default_rng(2)
    tokens, context = rng.normal(size=(2, 5, 8)), rng.normal(size=(2, 1, 6))
    attention = ContextAttention(heads=2, features=8)
    parameters = {"params": random_parameters(attention, tokens, context)}
    one = attention.apply(parameters, None, context)
    two = attention.apply(parameters, tokens, np.repeat(context, 2, axis=1))
    assert np.std(one) > 0.01
    np.testing.assert_allclose(np.broadcast_to(one, two.shape), two, rtol=1e-5, atol=1e-5)


def test_without_temporal_layers_frames_do_not_see_each_other(inputs, blended):
    x, time, context, vector = inputs
    network, parameters = blended
    vectors = np.broadcast_to(vector[:, None], (1, 3, 1)).copy()
    pictures = jax.jit(lambda p, x, v=vectors: network.apply(p, x, time, context, v, temporal=False))
    changed = x.copy()
    changed[:, 1] += 1.0
    before, after = np.asarray(pictures(parameters, x)), np.asarray(pictures(parameters, changed))
    np.testing.assert_array_equal(before[:, [0, 2]], after[:, [0, 2]])
    assert np.abs(before[:, 1] - after[:, 1]).max() > 0.01
    spatial = jax.tree.map(np.copy, parameters)
    for name, leaf in flatten(spatial["params"]).items():
        if is_temporal_parameter(name):
            leaf[...] = np.nan
    np.testing.assert_array_equal(before, pictures(spatial, x))
    vectors[:, 2] += 1.0
    one_other = np.asarray(pictures(parameters, x, vectors))
    np.testing.assert_array_equal(before[:, :2], one_other[:, :2])
    assert np.abs(before[:, 2] - one_other[:, 2]).max() > 1e-3


@pytest.mark.parametrize("layer", [ResidualTemporalBlock(heads=2, dtype=jnp.float32), TemporalConv(cyclic=False)])
def test_residual_layers_start_as_the_identity(layer):
    shape = (1, 3, 5, 8) if isinstance(layer, ResidualTemporalBlock) else (1, 3, 2, 2, 8)
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    y, _ = layer.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(y, x)


def test_scalar_conditions_of_each_frame():
    """SV3D_p's: several widths, other angles in every frame, against numpy in double precision."""
    config = dataclasses.replace(
        TINY, channels=(8,), layers_per_block=(1,), attention=(False,), heads=(1,), vector_dims=(4, 8, 8),
        temporal="none", down_eps=(1e-5,), up_eps=(1e-5,),
    )  # fmt: skip
    rng = np.random.default_rng(4)
    vector = rng.uniform(0, 6, (1, 3, 3))
    arguments = np.zeros((1, 3, 2, 2, 4)), np.float32([0.2]), np.zeros((1, 1, 6)), vector.astype(np.float32)
    network = StableUNet(config)
    parameters = random_parameters(network, *arguments)
    _, state = network.apply({"params": parameters}, *arguments, capture_intermediates=True)
    found = state["intermediates"]["add_embedding.linear_2"]["__call__"][0]
    parts = []
    for i, dim in enumerate(config.vector_dims):
        angles = vector[..., i, None] * 10_000.0 ** (-np.arange(dim // 2) / (dim // 2))
        parts += [np.cos(angles), np.sin(angles)]
    y = np.concatenate(parts, axis=-1)
    for name in ("linear_1", "linear_2"):
        layer = parameters["add_embedding." + name]
        y = y @ layer["kernel"].astype(float) + layer["bias"]
        y = y / (1 + np.exp(-y)) if name == "linear_1" else y
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)


def test_recomputing_changes_no_parameter(inputs):
    plain, recomputed = (StableUNet(TINY, remat=remat) for remat in (False, True))
    shapes = [jax.eval_shape(n.init, jax.random.key(0), *inputs)["params"] for n in (plain, recomputed)]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
    parameters = {"params": random_parameters(plain, *inputs)}
    loss = lambda n: lambda p: jnp.mean(jnp.square(n.apply(p, *inputs)))  # noqa: E731
    text = str(jax.make_jaxpr(jax.grad(loss(recomputed)))(parameters))
    assert "remat" in text or "checkpoint" in text


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(x=np.zeros((1, 3, 5, 6, 4), np.float32)), "5x6"),
        (dict(x=np.zeros((1, 3, 4, 6, 3), np.float32)), "3 channels, expected 4"),
        (dict(context=np.zeros((1, 1, 7), np.float32)), r"\(7,\)"),
        (dict(vector=None), "0 scalar conditions, expected 1"),
    ],
)
def test_wrong_inputs(inputs, change, message):
    arguments = {**dict(zip(("x", "time", "context", "vector"), inputs, strict=True)), **change}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: StableUNet(TINY).init(jax.random.key(0), **arguments))


def test_wrong_configs():
    with pytest.raises(ValueError, match="heads has 1 entries"):
        dataclasses.replace(TINY, heads=(1,))
    with pytest.raises(ValueError, match="'both', expected one of none, blended, residual"):
        dataclasses.replace(TINY, temporal="both")


def test_bfloat16_keeps_its_type_until_the_end(inputs):
    network = StableUNet(TINY, jnp.bfloat16)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), shapes)
    text = jax.jit(network.apply).lower({"params": half}, *inputs).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions and all(
        line.rpartition("->")[2].strip().startswith("tensor<") and "bf16" in line.rpartition("->")[2]
        for line in convolutions
    )
    assert math.prod(jax.eval_shape(network.apply, {"params": half}, *inputs).shape) == 3 * 4 * 6 * 4


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowers_for_accelerators(inputs, platform):
    network = StableUNet(dataclasses.replace(TINY, channels=(32, 64)), jnp.bfloat16)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    text = jax.jit(network.apply).trace(shapes, *inputs).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.convolution" in text


def test_the_residual_temporal_block_against_numpy():
    """Attention over the frames of each pixel with their numbers added, then GEGLU, in double precision."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, 3, 4, 8))
    block = ResidualTemporalBlock(heads=2, dtype=jnp.float32)
    tree = random_parameters(block, x.astype(np.float32))
    p = {name: np.float64(leaf) for name, leaf in flatten(tree).items()}

    def norm(x, name):
        away = x - x.mean(-1, keepdims=True)
        return away / np.sqrt((away**2).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.scale"] + p[f"{name}.bias"]

    angles = np.arange(3)[:, None] / 10_000.0 ** (np.arange(4) / 4)
    place = np.concatenate([np.cos(angles), np.sin(angles)], -1)[None, :, None]
    seen = norm(x, "norm1") + place
    q, k, v = ((seen @ p[f"attn1.to_{n}.kernel"]).reshape(2, 3, 4, 2, 4) for n in "qkv")
    scores = np.einsum("btnhd,bsnhd->bnhts", q, k) / 2.0
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = np.einsum("bnhts,bsnhd->btnhd", weights / weights.sum(-1, keepdims=True), v).reshape(x.shape)
    x1 = x + y @ p["attn1.to_out.0.kernel"] + p["attn1.to_out.0.bias"]
    value, gate = np.split(norm(x1, "norm3") @ p["ff.net.0.proj.kernel"] + p["ff.net.0.proj.bias"], 2, -1)
    hidden = value * gate * 0.5 * (1.0 + np.vectorize(math.erf)(gate / math.sqrt(2.0)))
    expected = x1 + hidden @ p["ff.net.2.kernel"] + p["ff.net.2.bias"]
    np.testing.assert_allclose(block.apply({"params": tree}, x.astype(np.float32)), expected, rtol=1e-4, atol=1e-4)
