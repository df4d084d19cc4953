"""Optimizers over stacked parameters (see `stacks`): AdamW, and Muon with AdamW for what is no matrix.

Muon (Jordan et al. 2024; size of the updates as in Liu et al., arXiv 2502.16982) is optax's.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from im3d_jax.training.stacks import group_of, is_rest


OPTIMIZERS = ("adamw", "muon")
CLIP = 1.0  # largest norm of all gradients together


def is_matrix(optimizer: str, name: str, value: jax.Array) -> bool:
    """Whether the optimizer treats the parameter as a matrix.

    AdamW's weight decay acts on matrices only: pulling norms and biases to zero hurts. Muon orthogonalises kernels
    between two layers, and not the network's ends and embeddings.
    """
    if optimizer == "adamw":
        return name.endswith(("kernel", "token_embedding"))
    ends = ("conv_in", "conv_out", "time_embedding", "token_embedding")
    return value.ndim >= 2 and name.endswith("kernel") and not any(part in ends for part in name.split("."))


def make(optimizer: str, rates: Mapping[str, float], weight_decay: float) -> optax.GradientTransformation:
    """The transformation of stacked gradients.

    Args:
        optimizer: One of `OPTIMIZERS`.
        rates: Learning rate of each group of stacks.
        weight_decay: Of the matrices, a share of the rate.

    Raises:
        ValueError: An unknown optimizer.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer={optimizer}: expected {' or '.join(OPTIMIZERS)}")

    def dimensions(params):
        return {key: None if is_rest(key) else MuonDimensionNumbers((1,), (2,)) for key in params}

    def matrices(params):
        return {key: not is_rest(key) for key in params}

    def one(rate: float) -> optax.GradientTransformation:
        if optimizer == "adamw":
            return optax.adamw(rate, b1=0.9, b2=0.99, eps=1e-8, weight_decay=weight_decay, mask=matrices)
        return muon(
            rate, consistent_rms=0.2, weight_decay=weight_decay, adam_b1=0.9, adam_b2=0.99,
            muon_weight_dimension_numbers=dimensions,
        )  # fmt: skip

    def labels(params):
        return {key: group_of(key) for key in params}

    parts = optax.partition({group: one(rate) for group, rate in rates.items()}, labels)
    return optax.chain(optax.clip_by_global_norm(CLIP), parts)
