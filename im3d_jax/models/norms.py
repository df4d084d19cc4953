"""Group and layer normalisation whose gradients are written by hand, because memory traffic is what they cost.

Statistics are in float32 whatever the input is; what is kept for the gradient is the input itself.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def group_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, eps: float, silu: bool = False
) -> jax.Array:
    """Group normalisation over the two spatial axes of [..., H, W, C], statistics in float32; SiLU after it if asked.

    Memory traffic is what it costs, so it reads `x` twice (sums, result), its gradient reads `x` and the incoming
    gradient twice, and only `x` itself is kept for it. The sums are of differences from each group's first
    value: plain sums of squares would lose the variance of groups with a large mean.

    Args:
        x: [..., H, W, C] of any float dtype, which the result has too.
        scale, bias: [C].
        groups: Divides C; neighbouring channels share a group.
        eps: Added to the variance.
        silu: Whether SiLU, x sigmoid(x), follows, in float32 as well.
    """
    *lead, height, width, channels = x.shape
    y: Any = _group_norm(x.reshape(*lead, height * width, channels), scale, bias, groups, eps, silu)
    return y.reshape(x.shape)


def group_norm_part(
    x: jax.Array, statistics: tuple[jax.Array, jax.Array], scale: jax.Array, bias: jax.Array, silu: bool = False
) -> jax.Array:
    """`group_norm` of a part [..., P, C] of a whole whose `group_statistics` are known, each [..., groups]."""
    factor, shift = _affine(x, scale, bias, *statistics)
    y = x.astype(jnp.float32) * factor + shift
    return (jax.nn.silu(y) if silu else y).astype(x.dtype)


def _channels_last(vector: jax.Array, ndim: int) -> jax.Array:
    return vector.reshape((1,) * (ndim - 1) + (-1,))


def _group_means(first, second, pixels, groups):
    """Means over pixels and each group's channels of two sums over pixels [..., C]: each [..., groups]."""
    # Side by side, because two reductions are two kernels.
    pair = jnp.stack([first, second])
    grouped = pair.reshape(*pair.shape[:-1], groups, -1)
    return grouped.sum(-1) / (pixels * grouped.shape[-1])


def _to_channels(x, channels):
    """[..., groups] -> [..., 1, channels]: the group's value for each channel."""
    wide = jnp.broadcast_to(x[..., None], (*x.shape, channels // x.shape[-1]))
    return wide.reshape(*x.shape[:-1], 1, channels)


def group_statistics(x: jax.Array, groups: int, eps: float) -> tuple[jax.Array, jax.Array]:
    """Mean and 1 / deviation of x [..., P, C] over P and each group's channels, each [..., groups] in float32."""
    *_, pixels, channels = x.shape
    pivot = x[..., 0, :: channels // groups].astype(jnp.float32)
    away = x.astype(jnp.float32) - _to_channels(pivot, channels)
    offset, square = _group_means(away.sum(-2), jnp.square(away).sum(-2), pixels, groups)
    return pivot + offset, lax.rsqrt(jnp.maximum(square - jnp.square(offset), 0.0) + eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _group_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, eps: float, silu: bool) -> jax.Array:
    return _group_norm_forward(x, scale, bias, groups, eps, silu)[0]


def _affine(x, scale, bias, mean, inverse):
    """(factor, shift), each [..., 1, C], with which the norm of x [..., P, C] is factor x + shift."""
    factor = _to_channels(inverse, x.shape[-1]) * _channels_last(scale, x.ndim)
    return factor, _channels_last(bias, x.ndim) - _to_channels(mean, x.shape[-1]) * factor


def _group_norm_forward(x, scale, bias, groups, eps, silu):
    mean, inverse = group_statistics(x, groups, eps)
    return group_norm_part(x, (mean, inverse), scale, bias, silu), (x, scale, bias, mean, inverse)


def _group_norm_backward(groups, eps, silu, kept, gradient):
    x, scale, bias, mean, inverse = kept
    *_, pixels, channels = x.shape
    factor, shift = _affine(x, scale, bias, mean, inverse)

    def before_silu(x, gradient):
        exact, inner = x.astype(jnp.float32), gradient.astype(jnp.float32)
        if silu:
            y = exact * factor + shift
            sigmoid = jax.nn.sigmoid(y)
            inner = inner * sigmoid * (1.0 + y * (1.0 - sigmoid))
        return exact, inner

    exact, inner = before_silu(x, gradient)
    total, product = inner.sum(-2), (inner * (exact - _to_channels(mean, channels))).sum(-2)
    # Without the barrier XLA writes `inner` in float32 between the two passes; computing it again is much less.
    x, gradient, total, product = lax.optimization_barrier((x, gradient, total, product))
    weight = _channels_last(scale, total.ndim)
    along, across = _group_means(total * weight, product * weight, pixels, groups)
    slope = -across * inverse**3
    offset = -along * inverse - slope * mean
    exact, inner = before_silu(x, gradient)
    dx = inner * factor + exact * _to_channels(slope, channels) + _to_channels(offset, channels)
    product = product * _to_channels(inverse, channels)[..., 0, :]
    axes = tuple(range(total.ndim - 1))
    return dx.astype(x.dtype), product.sum(axes).astype(scale.dtype), total.sum(axes).astype(bias.dtype)


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
