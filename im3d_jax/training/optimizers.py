"""Optimizers over nested parameters: AdamW, and Muon with AdamW for what is no matrix.

Muon (Jordan et al. 2024; size of the updates as in Liu et al., arXiv 2502.16982, section 2.2) is optax's. It works on
stacks of matrices of nearly one shape (see `stacks`), which this module makes and takes apart inside of the
transformation: outside, gradients and updates are nested as the parameters are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from im3d_jax.training.stacks import Place, Stacks, plan_stacks
from im3d_jax.weights import flatten, unflatten


OPTIMIZERS = ("adamw", "muon")
# Root mean square of AdamW's updates at rate 1, as measured by Liu et al.: Muon's then suit AdamW's rates.
USUAL_RMS = 0.2


def decays(name: str) -> bool:
    """Whether weight decay acts on a parameter: on matrices only, since pulling norms and biases to zero hurts."""
    return name.endswith(("kernel", "token_embedding", "lora_A", "lora_B"))


def is_muon_matrix(name: str, value: jax.Array) -> bool:
    """Whether Muon orthogonalises a parameter: kernels between two layers, not a network's ends and embeddings."""
    ends = ("conv_in", "conv_out", "time_embedding", "token_embedding")
    return value.ndim >= 2 and name.endswith("kernel") and not any(part in ends for part in name.split("."))


def make_optimizer(
    optimizer: str,
    rate: Callable[[str], float],
    *,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    b2: float = 0.99,
) -> optax.GradientTransformation:
    """The transformation of nested gradients.

    Args:
        optimizer: One of `OPTIMIZERS`.
        rate: Learning rate of a parameter, by its dotted name.
        weight_decay: Of the matrices, a share of the rate.
        clip: Largest norm of all gradients together.
        b2: Adam's decay of the squares.

    Raises:
        ValueError: An unknown optimizer.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer={optimizer}: expected {' or '.join(OPTIMIZERS)}")
    scale = optax.scale_by_adam(b1=0.9, b2=b2, eps=1e-8)
    if optimizer == "muon":
        scale = _by_name({True: _muon(), False: scale}, is_muon_matrix)
    decay = optax.masked(optax.add_decayed_weights(weight_decay), lambda params: _named(params, lambda n, _: decays(n)))
    return optax.chain(optax.clip_by_global_norm(clip), scale, decay, _times_rate(rate))


def schedule(warmup: int, decay: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Share of the learning rate by (step, total): warm-up, constant, linear decay to 0 over the last part of the run.

    Args:
        warmup: Steps of the linear warm-up.
        decay: Last share of the run over which the rate falls; 0 keeps it.
    """

    def share(step: jax.Array, total: jax.Array) -> jax.Array:
        risen = jnp.minimum(1.0, (step + 1) / max(1, warmup))
        if not decay:
            return risen
        hold = jnp.maximum(warmup, (1.0 - decay) * total)
        tail = (total - step) / jnp.maximum(1.0, total - hold)
        return jnp.clip(jnp.minimum(risen, tail), 0.0, 1.0)

    return share


def _named(tree: Any, value: Callable[[str, Any], Any]) -> Any:
    """A tree of `value(dotted name, leaf)`."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = [".".join(str(key.key) for key in path) for path, _ in flat]
    leaves = [value(name, leaf) for name, (_, leaf) in zip(names, flat, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _by_name(
    transformations: dict[Any, optax.GradientTransformation], rule: Callable[[str, Any], bool]
) -> optax.GradientTransformation:
    return optax.partition(transformations, lambda params: _named(params, rule))


def _times_rate(rate: Callable[[str], float]) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        del params
        return _named(updates, lambda name, leaf: -rate(name) * leaf), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _muon() -> optax.GradientTransformation:
    """Muon over stacks of matrices, between nested trees."""
    inner = scale_by_muon(weight_dimension_numbers=_matrices)

    def plan(tree: Any) -> tuple[Stacks, dict[str, jax.Array]]:
        flat = {name: leaf for name, leaf in flatten(tree).items() if not isinstance(leaf, optax.MaskedNode)}
        return plan_stacks(flat, lambda name, value: True), flat

    def init(params):
        stacks, flat = plan(params)
        return inner.init(stacks.stack(flat))

    def update(updates, state, params=None):
        del params
        stacks, flat = plan(updates)
        made: Any
        made, state = inner.update(stacks.stack(flat), state)
        sizes = stacks.spread(_usual_size)
        made = stacks.unstack({key: value * sizes[key] for key, value in made.items()})
        return unflatten(made, updates), state

    return optax.GradientTransformation(init, update)


def _matrices(stacks: Any) -> Any:
    """Which axes of stacks [n, rows, columns] are a matrix's."""
    numbers = MuonDimensionNumbers((1,), (2,))
    return {key: value if isinstance(value, optax.MaskedNode) else numbers for key, value in stacks.items()}


def _usual_size(place: Place) -> float:
    return USUAL_RMS * math.sqrt(max(place.rows, place.columns))
