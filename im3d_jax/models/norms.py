"""Group and layer normalisation whose gradients are written by hand, because memory traffic is what they cost.

Statistics are in float32 whatever the input is; what is kept for the gradient is the input itself.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax


def group_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, eps: float, silu: bool = False
) -> jax.Array:
    """Group normalisation over the two spatial axes of [..., H, W, C], statistics in float32; SiLU after it if asked.

    Memory traffic is what it costs, so it reads `x` twice (sums, result), its gradient reads `x` and the incoming
    gradient twice, and only `x` itself is kept for it. The sums are of differences from each channel's first pixel:
    plain sums of squares would lose the variance of channels with a large mean.

    Args:
        x: [..., H, W, C] of any float dtype, which the result has too.
        scale, bias: [C].
        groups: Divides C; neighbouring channels share a group.
        eps: Added to the variance.
        silu: Whether SiLU, x sigmoid(x), follows, in float32 as well.
    """
    *lead, height, width, channels = x.shape
    y = _group_norm(x.reshape(*lead, height * width, channels), scale, bias, groups, eps, silu)
    return y.reshape(x.shape)


def _channels_last(vector: jax.Array, ndim: int) -> jax.Array:
    return vector.reshape((1,) * (ndim - 1) + (-1,))


def _group_affine(x, scale, bias, groups, eps):
    """For x [..., P, C]: (factor, shift, mean, 1 / deviation), each [..., 1, C], with y = factor x + shift."""
    *lead, pixels, channels = x.shape
    pivot = x[..., :1, :].astype(jnp.float32)
    away = x.astype(jnp.float32) - pivot
    total, squares = away.sum(-2), jnp.square(away).sum(-2)
    own_mean = (pivot[..., 0, :] + total / pixels).reshape(*lead, groups, -1)
    spread = (squares - jnp.square(total) / pixels).reshape(own_mean.shape)
    mean = own_mean.mean(-1, keepdims=True)
    variance = (spread / pixels + jnp.square(own_mean - mean)).mean(-1, keepdims=True)
    inverse = lax.rsqrt(jnp.maximum(variance, 0.0) + eps)
    spread_out = lambda a: jnp.broadcast_to(a, own_mean.shape).reshape(*lead, 1, channels)  # noqa: E731
    mean, inverse = spread_out(mean), spread_out(inverse)
    factor = inverse * _channels_last(scale, x.ndim)
    return factor, _channels_last(bias, x.ndim) - mean * factor, mean, inverse


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _group_norm(x, scale, bias, groups, eps, silu):
    return _group_norm_forward(x, scale, bias, groups, eps, silu)[0]


def _group_norm_forward(x, scale, bias, groups, eps, silu):
    factor, shift, mean, inverse = _group_affine(x, scale, bias, groups, eps)
    y = x.astype(jnp.float32) * factor + shift
    y = jax.nn.silu(y) if silu else y
    return y.astype(x.dtype), (x, scale, bias, factor, shift, mean, inverse)


def _group_norm_backward(groups, eps, silu, kept, gradient):
    x, scale, bias, factor, shift, mean, inverse = kept
    *lead, _, channels = x.shape

    def before_silu(x, gradient):
        exact, inner = x.astype(jnp.float32), gradient.astype(jnp.float32)
        if silu:
            y = exact * factor + shift
            sigmoid = jax.nn.sigmoid(y)
            inner = inner * sigmoid * (1.0 + y * (1.0 - sigmoid))
        return exact, inner

    exact, inner = before_silu(x, gradient)
    total = inner.sum(-2, keepdims=True)
    product = (inner * (exact - mean)).sum(-2, keepdims=True) * inverse
    # Without the barrier XLA writes `inner` in float32 between the two passes; computing it again is much less.
    x, gradient, total, product = lax.optimization_barrier((x, gradient, total, product))

    def over_group(a):
        grouped = (a * _channels_last(scale, x.ndim)).reshape(*lead, 1, groups, channels // groups)
        return jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape).reshape(a.shape) / x.shape[-2]

    slope = -jnp.square(inverse) * over_group(product)
    offset = -inverse * over_group(total) - slope * mean
    exact, inner = before_silu(x, gradient)
    dx = (inner * factor + exact * slope + offset).astype(x.dtype)
    axes = tuple(range(x.ndim - 1))
    return dx, product.sum(axes).astype(scale.dtype), total.sum(axes).astype(bias.dtype)


_group_norm.defvjp(_group_norm_forward, _group_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Layer normalisation over the last axis, statistics in float32; only `x` is kept for the gradient."""
    y = x.astype(jnp.float32)
    mean = y.mean(-1, keepdims=True)
    variance = jnp.square(y - mean).mean(-1, keepdims=True)
    normal = (y - mean) * lax.rsqrt(variance + eps)
    return (normal * _channels_last(scale, x.ndim) + _channels_last(bias, x.ndim)).astype(x.dtype)


def _layer_norm_forward(x, scale, bias, eps):
    return layer_norm(x, scale, bias, eps), (x, scale, bias)


def _layer_norm_backward(eps, kept, gradient):
    x, scale, bias = kept
    # Four sums over the same rows are one pass; differences from the first channel keep the variance exact.
    away = x.astype(jnp.float32) - x[..., :1].astype(jnp.float32)
    outer = gradient.astype(jnp.float32)
    inner = outer * _channels_last(scale, x.ndim)
    mean, square = away.mean(-1, keepdims=True), jnp.square(away).mean(-1, keepdims=True)
    along, product = inner.mean(-1, keepdims=True), (inner * away).mean(-1, keepdims=True)
    inverse = lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + eps)
    normal = (away - mean) * inverse
    dx = inverse * (inner - along - normal * ((product - mean * along) * inverse))
    axes = tuple(range(x.ndim - 1))
    dscale, dbias = (outer * normal).sum(axes), outer.sum(axes)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(bias.dtype)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
