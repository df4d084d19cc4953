"""Layers shared by all networks: plain functions for the maths, thin linen modules for the parameters.

Tensors are channels-last. Kernels are stored as XLA wants them (convolutions HWIO, linear layers in x out);
`weights.names` turns them into PyTorch's order. Every module computes in `dtype` (bfloat16 on accelerators)
from float32 parameters; normalisations and softmax always run in float32.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


KERNEL_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def sinusoid(value: jax.Array, dim: int, max_period: float = 10_000.0) -> jax.Array:
    """Sinusoidal embedding, cosines first, as in Stable Diffusion's `timestep_embedding`.

    Args:
        value: [...] any real number (a time in 0..1000, an index, an angle).
        dim: Even number of features.

    Returns:
        [..., dim] float32 in [-1, 1].
    """
    frequencies = jnp.exp(-jnp.log(max_period) * jnp.arange(dim // 2, dtype=jnp.float32) / (dim // 2))
    angles = value.astype(jnp.float32)[..., None] * frequencies.reshape((1,) * value.ndim + (-1,))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def group_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, eps: float) -> jax.Array:
    """Group normalisation over the two spatial axes of [..., H, W, C], statistics in float32."""
    shape = x.shape
    y = x.astype(jnp.float32).reshape(*shape[:-3], shape[-3] * shape[-2], groups, shape[-1] // groups)
    mean = y.mean((-3, -1), keepdims=True)
    variance = jnp.square(y - mean).mean((-3, -1), keepdims=True)
    y = ((y - mean) * lax.rsqrt(variance + eps)).reshape(shape)
    tail = (1,) * (x.ndim - 1) + (-1,)
    return (y * scale.reshape(tail) + bias.reshape(tail)).astype(x.dtype)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Layer normalisation over the last axis, statistics in float32."""
    y = x.astype(jnp.float32)
    mean = y.mean(-1, keepdims=True)
    variance = jnp.square(y - mean).mean(-1, keepdims=True)
    tail = (1,) * (x.ndim - 1) + (-1,)
    return ((y - mean) * lax.rsqrt(variance + eps) * scale.reshape(tail) + bias.reshape(tail)).astype(x.dtype)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None, implementation: str = "xla"):
    """Scaled dot-product attention.

    Args:
        q: [B, Q, heads, dim]; k and v: [B, K, heads, dim].
        mask: Optional [B, K] booleans, True where a key may be seen.
        implementation: ``xla`` anywhere, ``cudnn`` for flash attention on NVIDIA devices in bfloat16.
    """
    if mask is not None:
        mask = mask[:, None, None, :]
    elif implementation == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """y [..., C] + bias [C] in float32, in y's dtype.

    In bfloat16 the bias's gradient, a sum over all pixels of all frames, came out of XLA's GPU compiler (jax 0.11.2)
    as a constant 0.5 where the truth was 1e-3; summed in float32 there is nothing to round away.
    """
    return (y.astype(jnp.float32) + bias.reshape((1,) * (y.ndim - 1) + (-1,))).astype(y.dtype)


class Dense(nn.Module):
    """Linear layer, kernel [in, out]."""

    features: int
    use_bias: bool = True
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.zeros if self.zero_init else KERNEL_INIT
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))
        return y


class Conv(nn.Module):
    """Two-dimensional convolution over [..., H, W, C], kernel HWIO.

    `padding` is (before, after) of both axes; by default it is PyTorch's symmetric half of the kernel.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = True
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32
    padding: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.zeros if self.zero_init else KERNEL_INIT
        size = self.kernel_size
        kernel = self.param("kernel", init, (size, size, x.shape[-1], self.features))
        lead = x.shape[:-3]
        y = lax.conv_general_dilated(
            x.astype(self.dtype).reshape(-1, *x.shape[-3:]),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            [self.padding or (size // 2, size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self.use_bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))
        return y.reshape(*lead, *y.shape[1:])


class TemporalConv(nn.Module):
    """Residual 1-D convolution over the frames of [B, T, H, W, C], kernel 3, the identity at initialisation.

    With `cyclic` the frames form a ring (a full orbit); otherwise the ends see zeros. Written as one matrix
    product on the three neighbours side by side, which needs no layout change on any device (kernel [3 C,
    C]).
    """

    cyclic: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        before, after = jnp.roll(x, 1, axis=1), jnp.roll(x, -1, axis=1)
        if not self.cyclic:
            frame = jnp.arange(x.shape[1])[None, :, None, None, None]
            before = jnp.where(frame == 0, 0, before)
            after = jnp.where(frame == x.shape[1] - 1, 0, after)
        neighbours = jnp.concatenate([before, x, after], axis=-1)
        return x + Dense(x.shape[-1], zero_init=True, dtype=self.dtype, name="conv")(neighbours)


class GroupNorm(nn.Module):
    """Group normalisation per frame; `groups` and `eps` are always explicit."""

    groups: int
    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return group_norm(x, scale, bias, self.groups, self.eps)


class LayerNorm(nn.Module):
    """Layer normalisation over channels."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, scale, bias, self.eps)


class Attention(nn.Module):
    """Multi-head attention, parameters named as diffusers' `Attention`.

    to_q, to_k and to_v have no bias, to_out.0 has one.

    Args of the call:
        x: [B, Q, C] queries.
        context: [B, K, D] keys and values; `x` itself by default.
        mask: Optional [B, K] booleans.
    """

    head_dim: int
    zero_init: bool = False
    implementation: str = "xla"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None, mask: jax.Array | None = None) -> jax.Array:
        context = x if context is None else context
        width = x.shape[-1]
        heads = width // self.head_dim
        project = lambda name: Dense(width, use_bias=False, dtype=self.dtype, name=name)  # noqa: E731
        split = lambda y: y.reshape(*y.shape[:-1], heads, self.head_dim)  # noqa: E731
        q, k, v = split(project("to_q")(x)), split(project("to_k")(context)), split(project("to_v")(context))
        y = attend(q, k, v, mask, self.implementation).reshape(x.shape)
        return Dense(width, zero_init=self.zero_init, dtype=self.dtype, name="to_out.0")(y)


class FeedForward(nn.Module):
    """GEGLU feed-forward (value first, then gate; exact GELU), named as diffusers' `FeedForward`."""

    multiple: int
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inner = x.shape[-1] * self.multiple
        value, gate = jnp.split(Dense(2 * inner, dtype=self.dtype, name="net.0.proj")(x), 2, axis=-1)
        y = value * jax.nn.gelu(gate, approximate=False)
        return Dense(x.shape[-1], zero_init=self.zero_init, dtype=self.dtype, name="net.2")(y)


def upsample(x: jax.Array) -> jax.Array:
    """Nearest-neighbour doubling of [..., H, W, C]."""
    *lead, height, width, channels = x.shape
    y = jnp.broadcast_to(x[..., :, None, :, None, :], (*lead, height, 2, width, 2, channels))
    return y.reshape(*lead, 2 * height, 2 * width, channels)
