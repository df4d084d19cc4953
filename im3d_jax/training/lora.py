"""Low-rank adapters (Hu et al., arXiv 2106.09685): W + A B beside held kernels, saved and merged as diffusers does."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.errors import WeightsError
from im3d_jax.models import is_temporal_parameter
from im3d_jax.training.trees import Rule, Tree
from im3d_jax.weights import flatten, load_safetensors, save_safetensors, unflatten


# Projections of attention, as diffusers' training scripts adapt them.
ATTENTION = re.compile(r"\.(to_q|to_k|to_v|to_out\.0)\.kernel$")


def spatial_attention(name: str) -> bool:
    """Whether a parameter is the kernel of a projection of attention within frames or to the conditions."""
    return bool(ATTENTION.search(name)) and not is_temporal_parameter(name)


def create_adapters(key: jax.Array, params: Mapping[str, Any], rank: int, rule: Rule = spatial_attention) -> Tree:
    """Adapters that add nothing yet.

    Args:
        key: PRNG key.
        params: Nested parameters of the network.
        rank: Of each adapter.
        rule: Which kernels [in, out] get one.

    Returns:
        Nested {module: {"lora_A": [in, rank], "lora_B": [rank, out]}}, float32; B is zero.

    Raises:
        ValueError: The rule chooses nothing, or a parameter that is no matrix.
    """
    chosen = {name: value for name, value in flatten(dict(params)).items() if rule(name)}
    if not chosen:
        raise ValueError("the rule chooses no kernel to adapt")
    adapters: Tree = {}
    for number, (name, kernel) in enumerate(chosen.items()):
        if kernel.ndim != 2:
            raise ValueError(f"{name} has shape {tuple(kernel.shape)}; adapters take matrices [in, out]")
        rows, columns = kernel.shape
        down = jax.random.normal(jax.random.fold_in(key, number), (rows, rank)) / rank
        adapters[name.removesuffix(".kernel")] = {"lora_A": down, "lora_B": jnp.zeros((rank, columns))}
    return adapters


def add_adapters(params: Mapping[str, Any], adapters: Mapping[str, Any], scale: float = 1.0) -> Tree:
    """Nested parameters with every adapted kernel replaced by W + scale A B; differentiable in both.

    The sum is taken in float32 and rounded to the kernel's dtype.
    """
    flat = dict(flatten(dict(params)))
    for module, adapter in adapters.items():
        kernel = flat[f"{module}.kernel"]
        product = jnp.matmul(adapter["lora_A"], adapter["lora_B"], precision="highest")
        flat[f"{module}.kernel"] = (kernel.astype(jnp.float32) + scale * product).astype(kernel.dtype)
    return unflatten(flat, dict(params))


def save_adapters(path: str | os.PathLike, adapters: Mapping[str, Any], prefix: str = "unet.") -> None:
    """Writes adapters under PEFT's names: ``unet.<module>.lora_A.weight`` [rank, in] and ``lora_B.weight`` [out, rank].

    That is what diffusers' `load_lora_adapter` reads; without an alpha it takes the scale 1.
    """
    flat = {}
    for module, adapter in adapters.items():
        for part in ("lora_A", "lora_B"):
            flat[f"{prefix}{module}.{part}.weight"] = np.asarray(adapter[part], np.float32).T
    save_safetensors(path, flat, {"format": "pt"})


def load_adapters(path: str | os.PathLike, prefix: str = "unet.") -> Tree:
    """Reads what `save_adapters` or diffusers' `save_lora_weights` wrote.

    Raises:
        WeightsError: A tensor that is no part of an adapter, or an adapter with one half.
    """
    adapters: Tree = {}
    for name, value in load_safetensors(path).items():
        module, _, part = name.removeprefix(prefix).removesuffix(".weight").rpartition(".")
        if part not in ("lora_A", "lora_B") or not name.startswith(prefix):
            raise WeightsError(f"{path} holds {name}; expected {prefix}<module>.lora_A.weight and lora_B.weight alone")
        adapters.setdefault(module, {})[part] = jnp.asarray(value.T, jnp.float32)
    for module, adapter in adapters.items():
        if set(adapter) != {"lora_A", "lora_B"}:
            raise WeightsError(f"{path} holds only {', '.join(adapter)} of the adapter of {module}")
    return adapters
