"""Scaled dot-product attention by three routes: plain XLA, cuDNN's flash attention, and Pallas' on TPUs.

The plain route writes all scores to memory: at 72 x 72 tokens of 42 frames these are tens of gigabytes, more than a
TPU v5e has. The flash routes keep them on the chip, forward and backward.
"""

from __future__ import annotations

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


Implementation = Literal["xla", "cudnn", "tpu"]

# Shorter sequences gain nothing: their scores are small.
SHORTEST_FLASH = 256
# Rows of queries and keys that the TPU kernel works on at once; sequences are padded to multiples.
TPU_BLOCK = 512


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None = None,
    implementation: str = "xla",
) -> jax.Array:
    """softmax(q kᵀ / sqrt(dim)) v.

    Args:
        q: [B, Q, heads, dim].
        k: [B, K, heads, dim].
        v: [B, K, heads, dim].
        mask: Optional [B, K] booleans, True where a key may be seen; such calls go by XLA.
        implementation: ``xla`` anywhere; ``cudnn`` on NVIDIA devices from Ampere on, in bfloat16; ``tpu`` on TPUs. The
            last two take sequences of `SHORTEST_FLASH` tokens and more, XLA the others.

    Returns:
        [B, Q, heads, dim] in q's dtype.

    Raises:
        ValueError: An unknown implementation.
    """
    if implementation not in get_args(Implementation):
        raise ValueError(f"attention={implementation!r}: expected one of {', '.join(get_args(Implementation))}")
    if mask is not None:
        return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :], implementation="xla")
    if implementation == "xla" or max(q.shape[1], k.shape[1]) < SHORTEST_FLASH:
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")
    return _cudnn(q, k, v) if implementation == "cudnn" else _tpu(q, k, v)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """cuDNN's flash attention; it has no gradient for odd numbers of tokens, which get one more that nobody sees."""
    queries, keys = q.shape[1], k.shape[1]
    if queries % 2 == keys % 2 == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    q, k, v = _pad(q, 2), _pad(k, 2), _pad(v, 2)
    counts = (jnp.full(q.shape[0], count, jnp.int32) for count in (queries, keys))
    out = jax.nn.dot_product_attention(
        q, k, v, query_seq_lengths=next(counts), key_value_seq_lengths=next(counts), implementation="cudnn"
    )
    return out[:, :queries]


def _tpu(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """JAX's Pallas kernel for TPUs, each device on its own part of the batch."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _tpu_kernel(q, k, v)
    # A kernel cannot be split by the compiler: rows lie over all axes of the mesh, as the batch does.
    rows = PartitionSpec(mesh.axis_names)
    return jax.shard_map(_tpu_kernel, in_specs=(rows, rows, rows), out_specs=rows, check_vma=False)(q, k, v)


def _tpu_kernel(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    queries, keys, dim = q.shape[1], k.shape[1], q.shape[-1]
    q, k, v = (_pad(x, TPU_BLOCK).swapaxes(1, 2) for x in (q, k, v))
    # Padding is a segment of its own, which real tokens do not see.
    segments = kernel.SegmentIds(_segments(q.shape, queries), _segments(k.shape, keys))
    block = TPU_BLOCK
    sizes = kernel.BlockSizes(
        block_q=block, block_k_major=block, block_k=block, block_b=1,
        block_q_major_dkv=block, block_k_major_dkv=block, block_k_dkv=block, block_q_dkv=block,
        block_k_major_dq=block, block_k_dq=block, block_q_dq=block,
    )  # fmt: skip
    run = functools.partial(kernel.flash_attention, segment_ids=segments, sm_scale=dim**-0.5, block_sizes=sizes)
    return run(q, k, v).swapaxes(1, 2)[:, :queries]


def _segments(shape: tuple[int, ...], count: int) -> jax.Array:
    """[B, T] of [B, heads, T, dim]: 0 for the first `count` tokens, 1 for padding."""
    row = (jnp.arange(shape[2]) >= count).astype(jnp.int32)
    return jnp.broadcast_to(row[None], (shape[0], shape[2]))


def _pad(x: jax.Array, multiple: int) -> jax.Array:
    """[B, T, heads, dim] with zeros behind up to a multiple of tokens."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0)))
