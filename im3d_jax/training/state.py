"""The functional state of a training run.

Parameters are flat dictionaries {dotted name: array}, so that "what is trained" and "what is held" are two
dictionaries and a rule on names splits them.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """Everything that a run needs to continue; a pytree."""

    step: jax.Array
    """Scalar int32, updates done."""
    params: dict[str, jax.Array]
    """Trained parameters, float32."""
    ema: dict[str, jax.Array]
    """Exponential moving average of `params`, float32."""
    opt_state: optax.OptState
    """The optimizer's state."""
    key: jax.Array
    """Typed PRNG key of the run; step k uses fold_in(key, k)."""


def split(flat: dict[str, jax.Array], trained: Callable[[str], bool]) -> tuple[dict, dict]:
    """Splits {name: array} into (trained, held) by a rule on names."""
    return {k: v for k, v in flat.items() if trained(k)}, {k: v for k, v in flat.items() if not trained(k)}


def merge(*parts: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The union of dictionaries with distinct names.

    Raises:
        ValueError: If a name occurs twice.
    """
    merged: dict[str, jax.Array] = {}
    for part in parts:
        twice = merged.keys() & part.keys()
        if twice:
            raise ValueError(f"parameters given twice: {sorted(twice)[:3]}")
        merged |= part
    return merged


def create_state(key: jax.Array, params: dict[str, jax.Array], optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state; `params` are copied, because a train step donates its state."""
    params = {name: jnp.array(value, jnp.float32) for name, value in params.items()}
    ema = {name: jnp.array(value) for name, value in params.items()}
    return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params), key)
