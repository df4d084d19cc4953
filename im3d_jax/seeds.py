"""Streams of a request's seed: every kind of randomness has its own, so that no two stages share noise."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import jax


LARGEST = 2**32 - 1

# The numbers decide the bytes of all results: they never change.
PICTURE, VIEWS, REFINE, FIT, CONDITION, ORBIT = 0, 1, 2, 3, 5, 6


def stream(seed: int | jax.Array, number: int | jax.Array) -> jax.Array:
    """The typed PRNG key [] of one stream.

    Args:
        seed: Of the request, 0 to `LARGEST`; may be traced.
        number: One of the constants of this module.
    """
    import jax  # not above: flags are checked before JAX is imported

    return jax.random.fold_in(jax.random.key(seed), number)
