"""The functional state of a training run."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from im3d_jax.parallel import SMALLEST_SPLIT, fsdp_sharding
from im3d_jax.training.trees import Tree


@flax.struct.dataclass
class TrainState:
    """Everything that a run needs to continue, beside the parameters that are held; a pytree.

    Attributes:
        step: [] int32, updates done or skipped: batches used.
        params: Nested trained parameters, float32.
        ema: Exponential moving average of `params`, float32.
        opt_state: The optimizer's state.
        key: Typed PRNG key of the run; the i-th example that is drawn uses fold_in(key, i).
        skipped: [] int32, steps whose loss or gradient was not finite; they changed nothing.
        skipped_in_a_row: [] int32, of those the last ones in a row.
    """

    step: jax.Array
    params: Tree
    ema: Tree
    opt_state: optax.OptState
    key: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def create_state(key: jax.Array, params: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state; `params` are copied, because a train step donates its state."""
    params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), params)
    ema = jax.tree.map(jnp.array, params)
    zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731
    return TrainState(zero(), params, ema, optimizer.init(params), key, zero(), zero())


def outline_state(
    key: jax.Array,
    params: Tree,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    min_size: int = SMALLEST_SPLIT,
) -> TrainState:
    """Shapes of a state, each with its sharding: split over the mesh's `fsdp` axis from `min_size` elements on.

    Args:
        key: Typed PRNG key.
        params: Nested parameters, or shapes of them.
        optimizer: Whose state belongs to it.
        mesh: Of `parallel.make_mesh`.
        min_size: Smaller arrays are not split.
    """
    shapes = jax.eval_shape(lambda params: create_state(key, params, optimizer), params)
    shardings = fsdp_sharding(mesh, shapes, min_size)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )


def place_state(
    key: jax.Array,
    params: Tree,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    min_size: int = SMALLEST_SPLIT,
) -> TrainState:
    """A fresh state, laid out as `outline_state` says; arguments are the same."""
    outline = outline_state(key, params, optimizer, mesh, min_size)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, outline)
    return jax.jit(lambda key, params: create_state(key, params, optimizer), out_shardings=shardings)(key, params)
