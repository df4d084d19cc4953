"""Optimizers over stacked parameters (see `stacks`): AdamW, and Muon with AdamW for what is no matrix.

Muon (Jordan et al. 2024; size of the updates as in Liu et al., arXiv 2502.16982, section 2.2) is optax's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from im3d_jax.training.stacks import REST, Place, Stacks


OPTIMIZERS = ("adamw", "muon")
CLIP = 1.0  # largest norm of all gradients together
# Root mean square of AdamW's updates at rate 1, as measured by Liu et al.: Muon's then suit AdamW's rates.
USUAL_RMS = 0.2


def is_matrix(optimizer: str, name: str, value: jax.Array) -> bool:
    """Whether the optimizer treats the parameter as a matrix.

    AdamW's weight decay acts on matrices only: pulling norms and biases to zero hurts. Muon orthogonalises kernels
    between two layers, and not the network's ends and embeddings.
    """
    if optimizer == "adamw":
        return name.endswith(("kernel", "token_embedding"))
    ends = ("conv_in", "conv_out", "time_embedding", "token_embedding")
    return value.ndim >= 2 and name.endswith("kernel") and not any(part in ends for part in name.split("."))


def make(
    optimizer: str, stacks: Stacks, rate: Callable[[str], float], weight_decay: float
) -> optax.GradientTransformation:
    """The transformation of stacked gradients.

    Args:
        optimizer: One of `OPTIMIZERS`.
        stacks: How the parameters lie.
        rate: Learning rate of a parameter, by name.
        weight_decay: Of the matrices, a share of the rate.

    Raises:
        ValueError: An unknown optimizer.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer={optimizer}: expected {' or '.join(OPTIMIZERS)}")
    adam = optax.scale_by_adam(b1=0.9, b2=0.99, eps=1e-8)
    scale = adam
    if optimizer == "muon":
        orthogonal = optax.chain(
            scale_by_muon(weight_dimension_numbers=_matrices),
            _times(stacks.spread(_usual_size)),
        )
        scale = _by_kind({"matrix": orthogonal, REST: adam})
    decay = _by_kind({"matrix": optax.add_decayed_weights(weight_decay), REST: optax.identity()})
    rates = _times(stacks.spread(lambda place: -rate(place.name)))
    return optax.chain(optax.clip_by_global_norm(CLIP), scale, decay, rates)


def _matrices(stacks: Any) -> Any:
    """Which axes of stacks [n, rows, columns] are a matrix's."""
    numbers = MuonDimensionNumbers((1,), (2,))
    return {key: value if isinstance(value, optax.MaskedNode) else numbers for key, value in stacks.items()}


def _usual_size(place: Place) -> float:
    return USUAL_RMS * math.sqrt(max(place.rows, place.columns))


def _by_kind(transformations: Mapping[Any, optax.GradientTransformation]) -> optax.GradientTransformation:
    return optax.partition(transformations, lambda stacks: {k: REST if k == REST else "matrix" for k in stacks})


def _times(factors: dict) -> optax.GradientTransformation:
    """Multiplies updates by fixed arrays."""

    def update(updates, state, params=None):
        del params
        # Where another transformation has the stack, optax leaves a placeholder in its place.
        return {k: v if isinstance(v, optax.MaskedNode) else v * factors[k] for k, v in updates.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
