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
    return _row_noise(np.asarray(row_seeds, np.uint32), number, shape, round)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _row_noise(row_seeds: jax.Array, number: int, shape: tuple[int, ...], round: int | None) -> jax.Array:
    def row(seed: jax.Array) -> jax.Array:
        key = seeds.stream(seed, number)
        return jax.random.normal(key if round is None else jax.random.fold_in(key, round), shape, jnp.float32)

    return jax.vmap(row)(row_seeds)
