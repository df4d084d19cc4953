"""What the project's two UNets share: the walk down, through the middle and up again, and which layers are temporal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax


Block = Callable[[jax.Array, str, int, int], jax.Array]
Resample = Callable[[jax.Array, str, int], jax.Array]

# Parts of parameter names that video training adds to a picture network.
TEMPORAL_MARKS = ("temporal_", "time_mixer", "time_pos_embed", "conv_in_condition")


def is_temporal_parameter(name: str) -> bool:
    """Whether a parameter, named by its dotted path, belongs to the layers that video training adds."""
    return any(mark in name for mark in TEMPORAL_MARKS)


def walk(
    h: jax.Array,
    layers: Sequence[int],
    *,
    block: Block,
    down: Resample,
    middle: Callable[[jax.Array], jax.Array],
    up: Resample,
    join: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Runs a UNet's blocks in order; skips go from every step down to the mirrored step up (Ronneberger et al. 2015).

    Names follow diffusers: level l's blocks down have the prefix ``down_blocks.l.``, the k-th level on the way up has
    ``up_blocks.k.``.

    Args:
        h: [B, T, H, W, C] output of the first convolution.
        layers: Blocks of each level on the way down; each level has one more on the way up.
        block: ``block(h, prefix, level, index)`` runs one block and what attends behind it.
        down: ``down(h, prefix, level)`` halves both sides.
        middle: Runs the blocks at the lowest level.
        up: ``up(h, prefix, level)`` doubles both sides.
        join: ``join(h, skip)`` concatenates the channels of both.

    Returns:
        [B, T, H, W, C'] with the size of `h`.
    """
    skips = [h]
    for level, count in enumerate(layers):
        prefix = f"down_blocks.{level}."
        for index in range(count):
            h = block(h, prefix, level, index)
            skips.append(h)
        if level < len(layers) - 1:
            h = down(h, prefix, level)
            skips.append(h)
    h = middle(h)
    for k, level in enumerate(reversed(range(len(layers)))):
        prefix = f"up_blocks.{k}."
        for index in range(layers[level] + 1):
            h = block(join(h, skips.pop()), prefix, level, index)
        if level > 0:
            h = up(h, prefix, level)
    return h
