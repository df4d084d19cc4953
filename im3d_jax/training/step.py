"""The train step: differentiate the loss of a batch, update, average; what is not finite changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from im3d_jax.data.loading import DRAW
from im3d_jax.parallel import SMALLEST_SPLIT, batch_sharding, fsdp_sharding
from im3d_jax.training.objectives import Objective
from im3d_jax.training.state import TrainState
from im3d_jax.training.trees import merge


Schedule = Callable[[jax.Array, jax.Array], jax.Array]
"""schedule(step, total) -> share of the learning rate."""
TrainStep = Callable[..., tuple[TrainState, dict[str, jax.Array]]]
"""step(state, held parameters, batch, total) -> (state, metrics), jitted."""


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    ema: float = 0.999,
    schedule: Schedule | None = None,
    micro_batches: int = 1,
    mesh: Mesh | None = None,
    combine: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = merge,
    min_size: int = SMALLEST_SPLIT,
) -> TrainStep:
    """Builds `step(state, held, batch, total) -> (state, metrics)`, jitted, `state` donated.

    Args:
        objective: The loss of each example.
        optimizer: Any optax transformation over the nested trained parameters.
        ema: Decay of the average in [0, 1); it warms up as (1 + step) / (10 + step), so that a young average is not
            dominated by the initialisation. 0 makes the average the parameters themselves.
        schedule: Scales the updates by step and `total`, the run's length, which is thus an argument of the compiled
            step; constant without a schedule.
        micro_batches: Parts of a batch whose gradients are accumulated; the batch must be divisible.
        mesh: Splits the batch over its devices when given.
        combine: Makes the network's parameters of the trained and the held ones.
        min_size: Of arrays that `fsdp` splits, as `place_state` has it.

    The batch holds arrays with a leading axis of B examples, among them `DRAW` [B]. Metrics: `loss`, `gradient_norm`,
    `skipped` (0 or 1), and the means of the objective's figures.
    """

    def placed(tree):
        """Where `place_state` puts the arrays: gradients are summed there, and the next step finds the state there."""
        if mesh is None or mesh.size == 1:
            return tree
        return lax.with_sharding_constraint(tree, fsdp_sharding(mesh, tree, min_size))

    def mean_loss(params, held, batch, keys):
        losses, figures = objective(combine(params, held), batch, keys)
        return losses.mean(), jax.tree.map(jnp.mean, {**figures, "loss": losses})

    def gradient(params, held, batch, keys):
        (_, figures), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params, held, batch, keys)
        return placed(gradients), figures

    def accumulated(params, held, batch, keys):
        if micro_batches == 1:
            return gradient(params, held, batch, keys)

        def cut(leaf):
            # Every micro-batch takes rows of all devices: example i goes to part i mod n.
            parts = leaf.reshape(leaf.shape[0] // micro_batches, micro_batches, *leaf.shape[1:]).swapaxes(0, 1)
            if mesh is None:
                return parts
            rows = batch_sharding(mesh).spec
            return lax.with_sharding_constraint(parts, jax.NamedSharding(mesh, PartitionSpec(None, *rows)))

        first = jax.eval_shape(gradient, params, held, *jax.tree.map(lambda leaf: cut(leaf)[0], (batch, keys)))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, held, *part)), None

        total, _ = lax.scan(add, zeros, jax.tree.map(cut, (batch, keys)))
        return jax.tree.map(lambda leaf: leaf / micro_batches, total)

    def step(state: TrainState, held, batch, total):
        if mesh is not None:
            batch = lax.with_sharding_constraint(batch, batch_sharding(mesh))
        keys = jax.vmap(lambda row: jax.random.fold_in(state.key, row))(batch[DRAW])
        gradients, metrics = accumulated(state.params, held, batch, keys)
        norm = optax.tree.norm(gradients)
        fine = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        if schedule is not None:
            share = schedule(state.step, jnp.asarray(total))
            updates = jax.tree.map(lambda update: share * update, updates)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
        average = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.ema, params)
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, old)  # noqa: E731
        bad = (~fine).astype(jnp.int32)
        state = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            ema=keep(average, state.ema),
            opt_state=keep(opt_state, state.opt_state),
            key=state.key,
            skipped=state.skipped + bad,
            skipped_in_a_row=bad * (state.skipped_in_a_row + 1),
        )
        return placed(state), {**metrics, "gradient_norm": norm, "skipped": bad.astype(jnp.float32)}

    return jax.jit(step, donate_argnums=0)
