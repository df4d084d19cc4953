"""Noise of a batch: each row as its seed gives it alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax import seeds


def row_noise(row_seeds: Sequence[int], number: int, shape: tuple[int, ...], round: int | None = None) -> jax.Array:
    """Standard normal noise [B, *shape], float32, drawn by one program.

    Args:
        row_seeds: B seeds, each 0 to `seeds.LARGEST`.
        number: Of the stream, one of the constants of `seeds`.
        shape: Of a row.
        round: Of a refinement: each round has noise of its own.
    """
    drawn_again = np.bool_(round is not None)
    return _row_noise(np.asarray(row_seeds, np.uint32), np.uint32(number), drawn_again, np.uint32(round or 0), shape)


# One program for all streams and rounds of a shape: random bits take a second to compile.
@functools.partial(jax.jit, static_argnames="shape")
def _row_noise(
    row_seeds: jax.Array, number: jax.Array, drawn_again: jax.Array, round: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    def row(seed: jax.Array) -> jax.Array:
        key = seeds.stream(seed, number)
        key = jnp.where(drawn_again, jax.random.fold_in(key, round), key)
        return jax.random.normal(key, shape, jnp.float32)

    return jax.vmap(row)(row_seeds)
