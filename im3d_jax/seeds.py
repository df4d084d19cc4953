"""Streams of a request's seed: every kind of randomness has its own, so that no two stages share noise."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


LARGEST = 2**32 - 1

# The numbers decide the bytes of all results: they never change.
PICTURE, VIEWS, REFINE, FIT, CONDITION, ORBIT = 0, 1, 2, 3, 5, 6


def stream(seed: int, number: int) -> jax.Array:
    """The typed PRNG key [] of one stream.

    Args:
        seed: Of the request, 0 to `LARGEST`.
        number: One of the constants of this module.
    """
    return jax.random.fold_in(jax.random.key(seed), number)


def normals(row_seeds: Sequence[int], number: int, shape: tuple[int, ...], round: int | None = None) -> jax.Array:
    """Standard normal noise [B, *shape] in one program, each row as its seed gives it alone.

    Args:
        row_seeds: B seeds.
        number: Of the stream.
        shape: Of a row.
        round: Of a refinement: each round has noise of its own.
    """
    return _normals(np.asarray(row_seeds, np.uint32), number, shape, round)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _normals(row_seeds: jax.Array, number: int, shape: tuple[int, ...], round: int | None) -> jax.Array:
    def row(seed: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), number)
        return jax.random.normal(key if round is None else jax.random.fold_in(key, round), shape, jnp.float32)

    return jax.vmap(row)(row_seeds)
