"""Layers shared by all networks: plain functions for the maths, thin linen modules for the parameters.

Tensors are channels-last. Kernels are stored as XLA wants them (convolutions HWIO, linear layers in x out);
`weights.names` turns them into PyTorch's order. Every module computes in `dtype` (bfloat16 on accelerators)
from float32 parameters; normalisations and softmax always run in float32.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from im3d_jax.models.attention import attend
from im3d_jax.models.norms import group_norm, layer_norm


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


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """y [..., C] + bias [C] in float32, in y's dtype.

    In bfloat16 the bias's gradient, a sum over all pixels of all frames, came out of XLA's GPU compiler (jax 0.11.2)
    as a constant 0.5 where the truth was 1e-3; summed in float32 there is nothing to round away.
    """
    return (y.astype(jnp.float32) + bias.reshape((1,) * (y.ndim - 1) + (-1,))).astype(y.dtype)


@jax.custom_vjp
def geglu(value: jax.Array, gate: jax.Array) -> jax.Array:
    """value * gelu(gate), the exact GELU in float32; keeps its two inputs for the gradient and nothing else."""
    exact = gate.astype(jnp.float32)
    return (value.astype(jnp.float32) * exact * _normal_cdf(exact)).astype(value.dtype)


def _normal_cdf(x):
    return 0.5 * (1.0 + lax.erf(x * math.sqrt(0.5)))


def _geglu_forward(value, gate):
    return geglu(value, gate), (value, gate)


def _geglu_backward(kept, gradient):
    value, gate = (a.astype(jnp.float32) for a in kept)
    outer, below = gradient.astype(jnp.float32), _normal_cdf(gate)
    density = jnp.exp(-0.5 * jnp.square(gate)) / math.sqrt(2.0 * math.pi)
    dtype = kept[0].dtype
    return (outer * gate * below).astype(dtype), (outer * value * (below + gate * density)).astype(dtype)


geglu.defvjp(_geglu_forward, _geglu_backward)


class Dense(nn.Module):
    """Linear layer, kernel [in, out]."""

    features: int
    use_bias: bool = True
    zero_init: bool = False
    dtype: DTypeLike = jnp.float32

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
    dtype: DTypeLike = jnp.float32
    padding: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.zeros if self.zero_init else KERNEL_INIT
        size = self.kernel_size
        kernel = self.param("kernel", init, (size, size, x.shape[-1], self.features))
        lead = x.shape[:-3]
        padding = self.padding or (size // 2, size // 2)
        images, kernel = x.astype(self.dtype).reshape(-1, *x.shape[-3:]), kernel.astype(self.dtype)
        if (size, self.stride, padding) == (1, 1, (0, 0)):
            y = images @ kernel[0, 0]
        else:
            y = lax.conv_general_dilated(
                images, kernel, (self.stride, self.stride), [padding] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        if self.use_bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))
        return y.reshape(*lead, *y.shape[1:])


def convolve_frames(x: jax.Array, kernel: jax.Array, cyclic: bool = False) -> jax.Array:
    """Convolution over the frames of [B, T, H, W, in], kernel [3, in, out]; in a ring, or with zeros beyond the ends.

    Frames and pixels are the two axes of an ordinary 3x1 convolution, so that no axis has to move.
    """
    batch, frames, height, width, channels = x.shape
    y = x.reshape(batch, frames, height * width, channels)
    if cyclic:
        y = jnp.concatenate([y[:, -1:], y, y[:, :1]], axis=1)
    ends = 0 if cyclic else 1
    y = lax.conv_general_dilated(
        y, kernel[:, None], (1, 1), [(ends, ends), (0, 0)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class NeighbourConv(nn.Module):
    """x + a convolution over the frames of x [B, T, H, W, C], its three taps stacked: [3 C, C]; see `TemporalConv`."""

    cyclic: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, shift: jax.Array | None = None) -> jax.Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.zeros, (3 * channels, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,)).reshape(1, 1, 1, 1, channels)
        kernel = kernel.astype(self.dtype).reshape(3, channels, channels)
        y = convolve_frames(x.astype(self.dtype), kernel, self.cyclic)
        # In float32 as in `add_bias`. The barrier keeps the gradients of bias and shift one reduction over all pixels.
        offset = bias if shift is None else bias + shift[:, None, None, None].astype(jnp.float32)
        offset = lax.optimization_barrier(offset)
        return (x.astype(jnp.float32) + y.astype(jnp.float32) + offset).astype(y.dtype)


class TemporalConv(nn.Module):
    """Residual convolution over the frames of [B, T, H, W, C], the identity at initialisation.

    With `cyclic` the frames form a ring (a full orbit); otherwise the ends see zeros. A `shift` [B, C] is added to
    every position.
    """

    cyclic: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, shift: jax.Array | None = None) -> jax.Array:
        return NeighbourConv(self.cyclic, self.dtype, name="conv")(x, shift)


class GroupNorm(nn.Module):
    """Group normalisation per frame, then SiLU if asked; `groups` and `eps` are always explicit."""

    groups: int
    eps: float
    silu: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return group_norm(x, scale, bias, self.groups, self.eps, self.silu)


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
    dtype: DTypeLike = jnp.float32

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


class GatedDense(nn.Module):
    """Linear layer to twice `features`, value first, then gate: value * gelu(gate). Kernel [in, 2 features]."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", KERNEL_INIT, (x.shape[-1], 2 * self.features)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (2 * self.features,))
        x = x.astype(self.dtype)
        # Two products: splitting one would cost its gradient a concatenation of the widest tensors there are.
        value = add_bias(x @ kernel[:, : self.features], bias[: self.features])
        return geglu(value, add_bias(x @ kernel[:, self.features :], bias[self.features :]))


class FeedForward(nn.Module):
    """GEGLU feed-forward (value first, then gate; exact GELU), named as diffusers' `FeedForward`."""

    multiple: int
    zero_init: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = GatedDense(x.shape[-1] * self.multiple, self.dtype, name="net.0.proj")(x)
        return Dense(x.shape[-1], zero_init=self.zero_init, dtype=self.dtype, name="net.2")(y)


def upsample(x: jax.Array) -> jax.Array:
    """Nearest-neighbour doubling of [..., H, W, C]."""
    *lead, height, width, channels = x.shape
    y = jnp.broadcast_to(x[..., :, None, :, None, :], (*lead, height, 2, width, 2, channels))
    return y.reshape(*lead, 2 * height, 2 * width, channels)
