"""Optimizers over flat parameter dictionaries {dotted name: array}.

Muon (Jordan et al. 2024; update scale of Liu et al., arXiv 2502.16982) through optax, on matrices of one shape stacked
into one array: its Newton-Schulz iterations are then a few batched products in place of thousands of small ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon


STACK = "stack:"


def is_matrix(name: str, value: jax.Array) -> bool:
    """Whether Muon updates the parameter: kernels between two layers, not the ends, embeddings, norms and biases."""
    ends = ("conv_in", "conv_out", "time_embedding", "token_embedding")
    return value.ndim >= 2 and name.endswith("kernel") and not any(part in ends for part in name.split("."))


def stacked(
    inner: optax.GradientTransformation, group: Callable[[str], str], chosen: Callable[[str, jax.Array], bool]
) -> optax.GradientTransformation:
    """`inner` on a dictionary whose `chosen` kernels [..., in, out] are stacked by shape and `group`.

    Args:
        inner: Sees ``stack:{group}:{rows}x{columns}`` -> [n, rows, columns] and the other parameters as they are;
            it must treat the parts of a stack alike and on their own.
        group: Name of the group of a parameter; parts of one stack share it.
        chosen: Which parameters are stacked, by name and value.

    Returns:
        A transformation of flat dictionaries.
    """

    def layout(tree: Mapping[str, jax.Array]) -> dict[str, list[str]]:
        stacks: dict[str, list[str]] = {}
        for name in sorted(tree):
            value = tree[name]
            key = name
            if chosen(name, value):
                rows, columns = math.prod(value.shape[:-1]), value.shape[-1]
                key = f"{STACK}{group(name)}:{rows}x{columns}"
            stacks.setdefault(key, []).append(name)
        return stacks

    def stack(tree: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {
            key: jnp.stack([tree[name].reshape(-1, tree[name].shape[-1]) for name in names])
            if key.startswith(STACK)
            else tree[key]
            for key, names in layout(tree).items()
        }

    def unstack(stacks: Mapping[str, jax.Array], like: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        out = {}
        for key, names in layout(like).items():
            for i, name in enumerate(names):
                out[name] = stacks[key][i].reshape(like[name].shape) if key.startswith(STACK) else stacks[key]
        return {name: out[name] for name in like}

    def init(params):
        return inner.init(stack(params))

    def update(updates, state, params=None):
        made, state = inner.update(stack(updates), state, None if params is None else stack(params))
        return unstack(made, updates), state

    return optax.GradientTransformation(init, update)


def muon_with_adamw(
    rates: Mapping[str, optax.Schedule], group: Callable[[str], str], *, weight_decay: float
) -> optax.GradientTransformation:
    """Muon on matrices, AdamW on the rest, with one learning rate for both (updates have AdamW's usual size).

    Args:
        rates: Learning rate of each group.
        group: Group of a parameter by its name.
        weight_decay: Of the matrices; norms, biases and embeddings have none.
    """

    def dimensions(params):
        return {k: MuonDimensionNumbers((1,), (2,)) if k.startswith(STACK) else None for k in params}

    def one(rate: optax.Schedule) -> optax.GradientTransformation:
        return muon(
            rate, consistent_rms=0.2, weight_decay=weight_decay, adam_b1=0.9, adam_b2=0.99,
            muon_weight_dimension_numbers=dimensions,
        )  # fmt: skip

    def labels(params):
        return {k: k.split(":")[1] if k.startswith(STACK) else group(k) for k in params}

    return stacked(optax.partition({name: one(rate) for name, rate in rates.items()}, labels), group, is_matrix)
