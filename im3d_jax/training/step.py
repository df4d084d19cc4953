"""The train step: draw a batch, differentiate the loss, update, average.

Data live on the devices (a run renders and encodes its set once), so that a step is one program with no host
in it, and many steps are one `lax.scan`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from im3d_jax.parallel import batch_sharding
from im3d_jax.training.stacks import Stacks
from im3d_jax.training.state import TrainState


Loss = Callable[[dict, dict, dict, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""loss(params, held, batch, key) -> (scalar, {name: scalar})."""


Schedule = Callable[[jax.Array, jax.Array], jax.Array]
"""schedule(step, total) -> share of the learning rate."""


class TrainSteps(Protocol):
    """Train steps, jitted."""

    def __call__(
        self, state: TrainState, held: dict, data: dict, count: int, total: int = 0
    ) -> tuple[TrainState, dict]:
        """The state after `count` steps, and the means of their metrics.

        Args:
            state: Donated.
            held: Parameters that are not trained, {name: array}.
            data: Arrays with rows along the first axis.
            count: Static.
            total: Steps of the whole run, for the schedule.
        """
        ...

    def lower(self, *arguments: Any) -> Any:
        """As `jax.jit`'s."""
        ...


def make_train_steps(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    ema: float,
    mesh: Mesh | None = None,
    schedule: Schedule | None = None,
    stacks: Stacks | None = None,
) -> TrainSteps:
    """Builds `steps(state, held, data, count, total=0) -> (state, metrics)`, jitted, `state` donated, `count` static.

    Args:
        loss: Of a batch: rows of `data` drawn with replacement.
        optimizer: Any optax transformation.
        batch_size: Rows a step.
        ema: Decay of the average in [0, 1); it warms up as (1 + step) / (10 + step), so that a young average
            is not dominated by the initialisation.
        mesh: Splits the batch over its devices when given.
        schedule: Scales the updates by step and `total`. A run's length is thus an argument of the compiled step, not
            a part of it; constant without a schedule.
        stacks: The state's parameters are stacked this way; the loss sees them unstacked.

    Metrics are means over the `count` steps; `loss` and `gradient_norm` are always among them.
    """

    def one(state: TrainState, held: dict, data: dict, total: jax.Array | int) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(state.key, state.step)
        draw, key = jax.random.split(key)
        rows = jax.random.randint(draw, (batch_size,), 0, jax.tree.leaves(data)[0].shape[0])
        if mesh is not None:
            rows = lax.with_sharding_constraint(rows, batch_sharding(mesh))
        batch = jax.tree.map(lambda a: a[rows], data)
        if mesh is not None:
            batch = lax.with_sharding_constraint(batch, batch_sharding(mesh))
        # Not differentiated through: the gradient of a slice is a whole stack of zeros.
        params = state.params if stacks is None else stacks.unstack(state.params)
        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(params, held, batch, key)
        if stacks is not None:
            gradients = stacks.stack(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        if schedule is not None:
            share = schedule(state.step, jnp.asarray(total))
            updates = jax.tree.map(lambda update: share * update, updates)
        params: Any = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
        average: Any = optax.incremental_update(params, state.ema, 1.0 - decay)
        metrics = {**metrics, "loss": value, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, params, average, opt_state, state.key), metrics

    def steps(state: TrainState, held: dict, data: dict, count: int, total: int = 0) -> tuple[TrainState, dict]:
        state, metrics = lax.scan(lambda s, _: one(s, held, data, total), state, None, length=count)
        return state, jax.tree.map(jnp.mean, metrics)

    many = jax.jit(steps, static_argnames="count", donate_argnames="state")
    return many if jax.default_backend() != "cpu" else _one_by_one(many)


def _one_by_one(many: TrainSteps) -> Any:
    """The same calls as single steps: XLA's CPU convolutions lose their threads in a device loop (7 times slower)."""

    def steps(state: TrainState, held: dict, data: dict, count: int, total: int = 0) -> tuple[TrainState, dict]:
        summed = None
        for _ in range(count):
            state, metrics = many(state, held, data, 1, total)
            summed = metrics if summed is None else jax.tree.map(jnp.add, summed, metrics)
        return state, jax.tree.map(lambda value: value / count, summed)

    steps.lower = many.lower  # pyright: ignore[reportFunctionMemberAccess]  # as jitted functions have it
    return steps
