"""Arithmetic of a step, for rates: counted by XLA in the lowered loss, without compiling it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from im3d_jax.training.objectives import Objective
from im3d_jax.training.trees import Rule, Tree
from im3d_jax.weights import flatten


def step_tflop(objective: Objective, params: Tree, example: Mapping[str, np.ndarray], rule: Rule) -> float | None:
    """TFLOP of a training step for one example, recomputation not counted.

    The forward pass once, the same for the gradients of the activations, and the trained share of it for those of the
    parameters (Kaplan et al. 2001.08361, section 2.1, counts 2 forward passes for both).

    Args:
        objective: The loss, with attention in plain XLA: kernels count as nothing.
        params: Nested parameters, or shapes of them.
        example: Arrays of one example.
        rule: Which parameters are trained.

    Returns:
        None where XLA does not say, or has no CPU client.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    batch = {
        name: jax.ShapeDtypeStruct((1, *np.shape(value)), np.asarray(value).dtype) for name, value in example.items()
    }
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return None
    with jax.default_device(host):  # the clients of accelerators count nothing that is not compiled
        cost: Any = jax.jit(objective).lower(shapes, batch, keys).cost_analysis()
    forward = cost.get("flops") if isinstance(cost, Mapping) else None
    if not forward:
        return None
    sizes = {name: leaf.size for name, leaf in flatten(shapes).items()}
    trained = sum(size for name, size in sizes.items() if rule(name)) / sum(sizes.values())
    return forward * (2.0 + trained) / 1e12
