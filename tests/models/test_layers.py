"""Layers against float64 numpy and, with PyTorch there, against its own."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.models import layers


RNG = np.random.default_rng(0)
# Compiling takes longer than anything else here.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def dense(x, params):
    y = x @ np.asarray(params["kernel"], np.float64)
    return y + np.asarray(params["bias"], np.float64) if "bias" in params else y


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q, k, v, mask=None):
    """[Q, heads, D], [K, heads, D] twice and [K], one head at a time."""
    heads = []
    for h in range(q.shape[1]):
        scores = q[:, h] @ k[:, h].T / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = np.where(mask[None], scores, -np.inf)
        heads.append(softmax(scores) @ v[:, h])
    return np.stack(heads, axis=1)


def randomised(module, *inputs):
    """Parameters without zeros, whatever the initialisation."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda leaf: normal(*leaf.shape) / math.sqrt(leaf.shape[0]), shapes)


def value_and_pullback(function, inputs, outer):
    """(function(*inputs), its gradients for the cotangent `outer`)."""

    @quick
    def both(inputs, outer):
        y, pull = jax.vjp(function, *inputs)
        return y, pull(outer)

    return both(inputs, outer)


def test_sinusoid():
    values = np.array([0.0, 1.5, 999.0])
    found = layers.sinusoid(jnp.asarray(values), 8)
    assert found.shape == (3, 8) and found.dtype == jnp.float32
    for row, value in zip(found, values, strict=True):
        angles = [value * 10_000 ** (-i / 4) for i in range(4)]
        wanted = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        np.testing.assert_allclose(row, wanted, atol=1e-4)


def test_group_norm():
    x, scale, bias = 3 + 2 * normal(2, 3, 4, 5, 6), normal(6), normal(6)
    found = layers.group_norm(jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias), 3, 1e-3)
    wanted = np.empty(x.shape)
    for b, t, g in np.ndindex(2, 3, 3):
        part = np.s_[b, t, :, :, 2 * g : 2 * g + 2]
        values = x[part].astype(np.float64)
        wanted[part] = (values - values.mean()) / np.sqrt(values.var() + 1e-3)
    np.testing.assert_allclose(found, wanted * scale + bias, atol=2e-5)


def test_norms_of_bfloat16_have_float32_statistics():
    """A mean of 300 with a deviation of 1: bfloat16 statistics would be off by whole units."""
    x = jnp.asarray(300 + 2 * (normal(1, 16, 16, 4) > 0), jnp.bfloat16)
    one, zero = jnp.ones(4), jnp.zeros(4)
    exact = np.asarray(x, np.float64)
    for axes, found in (
        ((1, 2, 3), layers.group_norm(x, one, zero, 1, 1e-6)),
        ((3,), layers.layer_norm(x, one, zero, 1e-6)),
    ):
        deviation = exact - exact.mean(axes, keepdims=True)
        wanted = deviation / np.sqrt(exact.var(axes, keepdims=True) + 1e-6)
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=0.02)


def test_layer_norm():
    x, scale, bias = normal(2, 3, 5), normal(5), normal(5)
    found = layers.layer_norm(jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias), 1e-2)
    exact = x.astype(np.float64)
    wanted = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-2)
    np.testing.assert_allclose(found, wanted * scale + bias, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_attention(masked):
    module = layers.Attention(head_dim=4)
    x, context = normal(2, 5, 8), normal(2, 3, 6)
    mask = np.array([[True, False, True], [True, True, True]]) if masked else None
    params = randomised(module, x, context, mask)
    assert params["to_out.0"].keys() == {"kernel", "bias"} and params["to_q"].keys() == {"kernel"}
    found = module.apply({"params": params}, x, context, mask)
    for b in range(2):
        q = dense(x[b], params["to_q"]).reshape(5, 2, 4)
        k, v = (dense(context[b], params[name]).reshape(3, 2, 4) for name in ("to_k", "to_v"))
        y = attention(q, k, v, None if mask is None else mask[b]).reshape(5, 8)
        np.testing.assert_allclose(found[b], dense(y, params["to_out.0"]), atol=1e-5)


def test_self_attention_reads_its_own_input():
    module, x = layers.Attention(head_dim=4), normal(1, 5, 8)
    params = randomised(module, x)
    apply = module.apply
    np.testing.assert_array_equal(apply({"params": params}, x), apply({"params": params}, x, x))


def test_feed_forward_is_geglu_with_the_exact_gelu():
    module, x = layers.FeedForward(multiple=3), 2 * normal(2, 5, 4)
    params = randomised(module, x)
    value, gate = np.split(dense(x.astype(np.float64), params["net.0.proj"]), 2, axis=-1)
    gelu = gate * 0.5 * (1 + np.vectorize(math.erf)(gate / math.sqrt(2)))
    np.testing.assert_allclose(module.apply({"params": params}, x), dense(value * gelu, params["net.2"]), atol=1e-5)


def conv(x, kernel, bias, stride):
    """[H, W, C] by sums over windows, padded by half the kernel on every side."""
    size = kernel.shape[0]
    half = size // 2
    padded = np.pad(x.astype(np.float64), ((half, half), (half, half), (0, 0)))
    rows = (padded.shape[0] - size) // stride + 1
    columns = (padded.shape[1] - size) // stride + 1
    y = np.empty((rows, columns, kernel.shape[-1]))
    for i, j in np.ndindex(rows, columns):
        window = padded[i * stride : i * stride + size, j * stride : j * stride + size]
        y[i, j] = np.tensordot(window, kernel, 3) + bias
    return y


@pytest.mark.parametrize("size, stride", [(1, 1), (3, 1), (3, 2)])
def test_conv_pads_as_pytorch_does(size, stride):
    module, x = layers.Conv(3, size, stride), normal(2, 2, 6, 8, 4)
    params = randomised(module, x)
    found = module.apply({"params": params}, x)
    for b, t in np.ndindex(2, 2):
        wanted = conv(x[b, t], params["kernel"], params["bias"], stride)
        np.testing.assert_allclose(found[b, t], wanted, atol=1e-5)


def test_zero_initialised_layers_give_zero():
    x = normal(1, 2, 4, 4, 8)
    for module in (layers.Dense(3, zero_init=True), layers.Conv(3, zero_init=True)):
        found, _ = module.init_with_output(jax.random.key(0), x)
        np.testing.assert_array_equal(found, jnp.zeros_like(found))
    module = layers.TemporalConv(cyclic=True)
    np.testing.assert_array_equal(module.init_with_output(jax.random.key(0), x)[0], x)


@pytest.mark.parametrize("cyclic", [True, False])
def test_temporal_conv(cyclic):
    module, x = layers.TemporalConv(cyclic), normal(2, 5, 2, 2, 3)
    params = randomised(module, x)
    found = module.apply({"params": params}, x)
    kernel = params["conv"]["kernel"].reshape(3, 3, 3).astype(np.float64)
    for t in range(5):
        wanted = x[:, t] + params["conv"]["bias"]
        for tap in range(3):
            source = t + tap - 1
            if cyclic or 0 <= source < 5:
                wanted = wanted + x[:, source % 5] @ kernel[tap]
        np.testing.assert_allclose(found[:, t], wanted, atol=1e-5)


def test_temporal_conv_adds_a_shift():
    module, x, shift = layers.TemporalConv(True), normal(2, 5, 2, 2, 3), normal(2, 3)
    params = randomised(module, x)
    plain = module.apply({"params": params}, x)
    found = module.apply({"params": params}, x, shift)
    np.testing.assert_allclose(found, plain + shift[:, None, None, None], atol=1e-5)


@pytest.mark.parametrize("cyclic", [True, False])
def test_gradients_of_temporal_conv(cyclic):
    """Against the same layer as a product with three neighbours side by side."""
    module, x, shift, outer = layers.TemporalConv(cyclic), normal(2, 4, 2, 3, 3), normal(2, 3), normal(2, 4, 2, 3, 3)
    params = randomised(module, x)["conv"]

    def plain(params, x, shift):
        ends = x[:, -1:], x[:, :1]
        ring = jnp.concatenate([ends[0], x, ends[1]] if cyclic else [0 * ends[0], x, 0 * ends[1]], axis=1)
        stacked = jnp.concatenate([ring[:, :-2], ring[:, 1:-1], ring[:, 2:]], axis=-1)
        offset = params["bias"].reshape(1, 1, 1, 1, 3) + shift[:, None, None, None]
        return x + stacked @ params["kernel"] + offset

    apply = lambda params, x, shift: module.apply({"params": {"conv": params}}, x, shift)  # noqa: E731
    found, wanted = (value_and_pullback(f, (params, x, shift), outer)[1] for f in (apply, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, wanted)


def plain_group_norm(x, scale, bias, groups, eps, silu):
    y = x.reshape(*x.shape[:-3], -1, groups, x.shape[-1] // groups)
    y = (y - y.mean((-3, -1), keepdims=True)) / jnp.sqrt(y.var((-3, -1), keepdims=True) + eps)
    y = y.reshape(x.shape) * scale.reshape(1, 1, 1, 1, -1) + bias.reshape(1, 1, 1, 1, -1)
    return y * jax.nn.sigmoid(y) if silu else y


def plain_layer_norm(x, scale, bias, eps):
    y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)
    return y * scale.reshape(1, 1, 1, 1, -1) + bias.reshape(1, 1, 1, 1, -1)


def plain_geglu(value, gate):
    return value * jax.nn.gelu(gate, approximate=False)


NORMS = {
    "group_norm": (layers.group_norm, plain_group_norm, (3, 1e-3, False)),
    "group_norm_silu": (layers.group_norm, plain_group_norm, (3, 1e-3, True)),
    "layer_norm": (layers.layer_norm, plain_layer_norm, (1e-3,)),
}


@pytest.mark.parametrize("kind", NORMS)
def test_gradients_of_norms(kind):
    """Against differentiating the textbook formula, also around a mean of 300.

    There, sums of squares around zero would lose the deviation in float32.
    """
    norm, plain, settings = NORMS[kind]
    # Frames and channels of different means and spreads.
    x = normal(2, 3, 4, 5, 6) * np.arange(1, 4, dtype=np.float32).reshape(3, 1, 1, 1) + np.arange(6, dtype=np.float32)
    inputs, outer = (x, normal(6), normal(6)), normal(*x.shape)
    wanted_y, wanted = value_and_pullback(lambda *a: plain(*a, *settings), inputs, outer)
    found_y, found = value_and_pullback(lambda *a: norm(*a, *settings), inputs, outer)
    np.testing.assert_allclose(found_y, wanted_y, atol=2e-5)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))
    # 300 + x itself is rounded by up to 1.5e-5.
    found_y, found = value_and_pullback(lambda x, *a: norm(300 + x, *a, *settings), inputs, outer)
    np.testing.assert_allclose(found_y, wanted_y, atol=5e-4)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-4 * float(jnp.abs(b).max()))


def test_gradients_of_geglu():
    inputs, outer = (normal(3, 5), 2 * normal(3, 5)), normal(3, 5)
    found, wanted = (value_and_pullback(f, inputs, outer)[1] for f in (layers.geglu, plain_geglu))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_gradients_keep_nothing_large_in_float32():
    """What is kept of a bfloat16 activation is itself: training is bound by memory traffic."""
    x, vector = jnp.ones((2, 3, 8, 8, 6), jnp.bfloat16), jnp.ones(6, jnp.bfloat16)
    for f in (
        lambda x: layers.group_norm(x, vector, vector, 3, 1e-5, True),
        lambda x: layers.layer_norm(x, vector, vector, 1e-5),
        lambda x: layers.geglu(x, x + 1),
        lambda x: layers.add_bias(x, vector),
    ):
        y, pull = jax.vjp(f, x)
        kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.dtype == jnp.float32]
        assert y.dtype == jnp.bfloat16 and pull(y)[0].dtype == jnp.bfloat16
        assert all(leaf.size < x.size // 8 for leaf in kept), [leaf.shape for leaf in kept]


def test_upsample_repeats_pixels():
    x = normal(2, 3, 4, 5, 2)
    np.testing.assert_array_equal(layers.upsample(jnp.asarray(x)), x.repeat(2, -3).repeat(2, -2))


@pytest.mark.parity
def test_parity_with_pytorch():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    x = normal(2, 7, 6, 8)
    nchw = torch.tensor(x).permute(0, 3, 1, 2)

    def back(y):
        return y.permute(0, 2, 3, 1).numpy()

    for size, stride in ((1, 1), (3, 1), (3, 2)):
        module = layers.Conv(5, size, stride)
        params = randomised(module, x)
        kernel = torch.tensor(params["kernel"]).permute(3, 2, 0, 1)
        wanted = F.conv2d(nchw, kernel, torch.tensor(params["bias"]), stride, padding=size // 2)
        np.testing.assert_allclose(module.apply({"params": params}, x), back(wanted), atol=1e-5)

    scale, bias = normal(8), normal(8)
    wanted = F.group_norm(nchw, 4, torch.tensor(scale), torch.tensor(bias), 1e-5)
    found = layers.group_norm(jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias), 4, 1e-5)
    np.testing.assert_allclose(found, back(wanted), atol=1e-5)
    wanted = F.layer_norm(torch.tensor(x), (8,), torch.tensor(scale), torch.tensor(bias), 1e-5)
    found = layers.layer_norm(jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias), 1e-5)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    wanted = F.interpolate(nchw, scale_factor=2, mode="nearest")
    np.testing.assert_array_equal(layers.upsample(jnp.asarray(x)), back(wanted))

    q, k, v = normal(2, 5, 2, 4), normal(2, 3, 2, 4), normal(2, 3, 2, 4)
    mask = np.array([[True, False, True], [True, True, True]])
    heads_first = [torch.tensor(a).transpose(1, 2) for a in (q, k, v)]
    wanted = F.scaled_dot_product_attention(*heads_first, attn_mask=torch.tensor(mask)[:, None, None])
    found = layers.attend(*map(jnp.asarray, (q, k, v)), jnp.asarray(mask))
    np.testing.assert_allclose(found, wanted.transpose(1, 2).numpy(), atol=1e-5)
