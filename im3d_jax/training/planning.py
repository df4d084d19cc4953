"""The train step of a recipe without its weights and data: to compile it for machines that are not here."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from im3d_jax import parallel
from im3d_jax.data.loading import DRAW
from im3d_jax.training.loop import build_step
from im3d_jax.training.optimizers import schedule
from im3d_jax.training.recipe import Recipe
from im3d_jax.training.state import outline_state
from im3d_jax.training.trees import partition


def abstract_step(recipe: Recipe, mesh: Mesh, min_size: int = parallel.SMALLEST_SPLIT) -> tuple[Any, tuple[Any, ...]]:
    """The jitted step that `Recipe.train` takes, and its arguments as shapes with shardings.

    Args:
        recipe: What is trained.
        mesh: On which devices; they need not be here. Lower the step within `parallel.using` of it.
        min_size: Smaller arrays are not split over ``fsdp``.

    Returns:
        The step, and (state, held parameters, batch, length of the run).
    """
    outline = recipe.stage.outline()
    optimizer = recipe.optimizer.make(recipe.stage.rate)
    trained, held = partition(outline.params, outline.trained)
    share = schedule(recipe.optimizer.warmup, recipe.optimizer.decay)
    step = build_step(outline, optimizer, recipe.run, share, mesh, min_size)
    state = outline_state(jax.random.key(0), trained, optimizer, mesh, min_size)
    example = {**outline.example, DRAW: jax.ShapeDtypeStruct((), jnp.int32)}
    rows = {name: jax.ShapeDtypeStruct((recipe.run.batch, *leaf.shape), leaf.dtype) for name, leaf in example.items()}
    held = with_shardings(held, parallel.fsdp_sharding(mesh, held, min_size))
    total = jax.ShapeDtypeStruct((), jnp.int32, weak_type=True, sharding=parallel.replicated(mesh))
    return step, (state, held, with_sharding(rows, parallel.batch_sharding(mesh)), total)


def with_shardings(tree: Any, shardings: Any) -> Any:
    """Shapes of arrays or shapes, each with the sharding of the same place."""
    return jax.tree.map(lambda leaf, sharding: _shape(leaf, sharding), tree, shardings)


def with_sharding(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Shapes of arrays or shapes, all with one sharding."""
    return jax.tree.map(lambda leaf: _shape(leaf, sharding), tree)


def _shape(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
