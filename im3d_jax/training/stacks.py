"""Parameters of one shape side by side: what an optimizer does to hundreds of small arrays it then does to a few.

On a GPU each kernel costs some microseconds whatever its size, and clipping, Adam and averaging take several for each
array; Muon's Newton-Schulz iterations take thirty.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Stacks:
    """Between a flat dictionary {dotted name: array} and one of few arrays.

    Matrices [..., in, out] lie in ``{group}:{rows}x{out}`` -> [n, rows, out], everything else of a group end to end in
    ``{group}:rest`` -> [size].

    Attributes:
        places: {key: ((name, shape), ...)}, in the order in which they lie there.
    """

    places: dict[str, tuple[tuple[str, tuple[int, ...]], ...]]

    def stack(self, flat: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{key: array} of {name: array}."""
        return {key: self._join(key, [flat[name] for name, _ in parts]) for key, parts in self.places.items()}

    def unstack(self, stacks: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{name: array} of {key: array}."""
        flat = {}
        for key, parts in self.places.items():
            start = 0
            for i, (name, shape) in enumerate(parts):
                size = math.prod(shape)
                part = stacks[key][start : start + size] if is_rest(key) else stacks[key][i]
                flat[name] = part.reshape(shape)
                start += size
        return flat

    @staticmethod
    def _join(key: str, parts: Sequence[jax.Array]) -> jax.Array:
        if is_rest(key):
            return jnp.concatenate([part.reshape(-1) for part in parts])
        return jnp.stack([part.reshape(-1, part.shape[-1]) for part in parts])


def is_rest(key: str) -> bool:
    """Whether a key of stacks holds what is no matrix."""
    return key.endswith(":rest")


def group_of(key: str) -> str:
    """The group of a key of stacks."""
    return key.split(":")[0]


def plan_stacks(
    flat: Mapping[str, jax.Array], group: Callable[[str], str], is_matrix: Callable[[str, jax.Array], bool]
) -> Stacks:
    """Lays out parameters (arrays or `jax.ShapeDtypeStruct`s).

    Args:
        flat: {dotted name: array}.
        group: Group of a parameter, by name; stacks never mix groups.
        is_matrix: Whether a parameter, by name and value, is a matrix for the optimizer.
    """
    places: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name in sorted(flat):
        shape = tuple(flat[name].shape)
        kind = f"{math.prod(shape[:-1])}x{shape[-1]}" if is_matrix(name, flat[name]) else "rest"
        places.setdefault(f"{group(name)}:{kind}", []).append((name, shape))
    return Stacks({key: tuple(parts) for key, parts in places.items()})
