"""Parameters with which the training of a UNet starts: of a checkpoint, or random; each array where it belongs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from im3d_jax import parallel
from im3d_jax.models import StableUNetConfig
from im3d_jax.training.trees import Rule, Tree, merge, partition
from im3d_jax.weights import flatten, unflatten
from im3d_jax.weights.checkpoints import Checkpoint, load_network
from im3d_jax.weights.names.networks import unet_shapes
from im3d_jax.weights.presets import Preset
from im3d_jax.weights.starting import KERNEL_INIT


def with_attention(config: StableUNetConfig, attention: str, dtype: str) -> StableUNetConfig:
    """A network's sizes with the attention kernel to compute with.

    Args:
        config: Sizes.
        attention: ``xla``, ``cudnn`` or ``tpu``; empty for the best of the present device.
        dtype: Of the computation; cuDNN's kernel wants bfloat16.
    """
    chosen = attention or {"tpu": "tpu", "gpu": "cudnn"}.get(jax.default_backend(), "xla")
    if chosen == "cudnn" and dtype != "bfloat16":
        chosen = "xla"
    return dataclasses.replace(config, attention_implementation=chosen)


def start_unet(preset: Preset, checkpoint: Checkpoint | None, rule: Rule, dtype: str, mesh: Mesh, seed: int) -> Tree:
    """The UNet's nested parameters: trained ones in float32, held ones in the dtype of the computation.

    Args:
        preset: Of the network that is trained.
        checkpoint: Weights to start from: of the same network, or of one that differs in some layers, which are then
            new. None draws all.
        rule: Which parameters are trained, by dotted name from ``unet.`` on.
        dtype: Of the computation.
        mesh: Large arrays are split over its `fsdp` axis.
        seed: Of new parameters.
    """
    shapes = unet_shapes(preset.unet)
    place = functools.partial(parallel.fsdp_sharding, mesh)

    def kind(name: str) -> DTypeLike:
        return jnp.float32 if rule(f"unet.{name}") else jnp.dtype(dtype)

    if checkpoint is None:
        return _random(shapes, kind, place(shapes), seed)
    found = load_network(checkpoint, "unet", dtype=kind, sharding=place)
    if preset.unet == checkpoint.preset.unet:
        return found
    known, fresh = flatten(found), flatten(_random(shapes, kind, place(shapes), seed))
    taken = {
        name: known[name] if name in known and known[name].shape == leaf.shape else leaf for name, leaf in fresh.items()
    }
    return unflatten(taken, shapes)


def unet_outline(preset: Preset, rule: Rule, dtype: str) -> Tree:
    """Shapes of what `start_unet` gives."""
    trained, held = partition({"unet": unet_shapes(preset.unet)}, rule)

    def cast(tree: Tree, kind: DTypeLike) -> Tree:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, kind), tree)

    return merge(cast(trained, jnp.float32), cast(held, jnp.dtype(dtype)))["unet"]


def _random(shapes: Tree, kind: Callable[[str], DTypeLike], shardings: Tree, seed: int) -> Tree:
    """Parameters as a new network has them; kernels of spread 1 / sqrt(inputs), temporal layers included."""
    places = flatten(shardings)

    def draw(number: int, name: str, leaf: Any) -> jax.Array:
        # The function and its options are the same each time, so that each shape is compiled once.
        made = jax.jit(_initial, static_argnums=(1, 2, 3), out_shardings=places[name])
        key = jax.random.fold_in(jax.random.key(seed), number)
        return made(key, name.rpartition(".")[2], leaf.shape, jnp.dtype(kind(name)))

    flat = {name: draw(i, name, leaf) for i, (name, leaf) in enumerate(flatten(shapes).items())}
    return unflatten(flat, shapes)


def _initial(key: jax.Array, last: str, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    """A new parameter whose name ends in `last`."""
    if last == "scale":
        return jnp.ones(shape, dtype)
    if last == "mix_factor":
        return jnp.full(shape, 0.5, dtype)
    return jnp.zeros(shape, dtype) if last == "bias" else KERNEL_INIT(key, shape, dtype)
