"""Parameters side by side in few arrays: what an optimizer does to hundreds of small arrays it then does to a few.

On a GPU each kernel costs some microseconds whatever its size, and clipping, Adam and averaging take several for each
array; Muon's Newton-Schulz iterations take thirty. Matrices of nearly the same shape are therefore padded with zeros,
which neither Adam nor Muon ever moves.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np


REST = "rest"
# Sides to which matrices are padded. The bundled UNet's 40 shapes become 9.
SIDES = (64, 160, 320, 640, 1728, 2880)


@dataclasses.dataclass(frozen=True)
class Place:
    """One parameter in a stack: [..., in, out] as a matrix [in, out] of which the longer side comes first."""

    name: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Size of all axes but the last."""
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """Size of the last axis."""
        return self.shape[-1]

    @property
    def turned(self) -> bool:
        """Whether the matrix lies transposed."""
        return self.rows < self.columns


@dataclasses.dataclass(frozen=True)
class Stacks:
    """Between a flat dictionary {dotted name: array} and one of few arrays.

    Matrices lie in ``{long}x{short}`` -> [n, long, short], padded with zeros; everything else end to end in ``rest`` ->
    [size].

    Attributes:
        places: {key: parameters in the order in which they lie there}.
    """

    places: dict[str, tuple[Place, ...]]

    def stack(self, flat: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{key: array} of {name: array}."""
        stacks = {}
        for key, places in self.places.items():
            if key == REST:
                stacks[key] = jnp.concatenate([flat[place.name].reshape(-1) for place in places])
                continue
            long, short = _sides(key)
            parts = []
            for place in places:
                part = flat[place.name].reshape(place.rows, place.columns)
                part = part.T if place.turned else part
                parts.append(jnp.pad(part, ((0, long - part.shape[0]), (0, short - part.shape[1]))))
            stacks[key] = jnp.stack(parts)
        return stacks

    def unstack(self, stacks: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{name: array} of {key: array}."""
        flat = {}
        for key, places in self.places.items():
            start = 0
            for i, place in enumerate(places):
                if key == REST:
                    size = math.prod(place.shape)
                    part, start = stacks[key][start : start + size], start + size
                elif place.turned:
                    part = stacks[key][i, : place.columns, : place.rows].T
                else:
                    part = stacks[key][i, : place.rows, : place.columns]
                flat[place.name] = part.reshape(place.shape)
        return flat

    def spread(self, value: Callable[[Place], float]) -> dict[str, np.ndarray]:
        """One number a parameter, in arrays that multiply stacks: [n, 1, 1] for matrices, [size] for the rest."""
        spread = {}
        for key, places in self.places.items():
            numbers = np.array([value(place) for place in places], np.float32)
            sizes = [math.prod(place.shape) for place in places]
            spread[key] = np.repeat(numbers, sizes) if key == REST else numbers.reshape(-1, 1, 1)
        return spread


def plan_stacks(flat: Mapping[str, jax.Array], is_matrix: Callable[[str, jax.Array], bool]) -> Stacks:
    """Lays out parameters {dotted name: array or shape}; `is_matrix(name, value)` tells which are matrices."""
    places: dict[str, list[Place]] = {}
    for name in sorted(flat):
        place = Place(name, tuple(flat[name].shape))
        key = REST
        if is_matrix(name, flat[name]):
            long, short = sorted((place.rows, place.columns), reverse=True)
            key = f"{_padded(long)}x{_padded(short)}"
        places.setdefault(key, []).append(place)
    return Stacks({key: tuple(parts) for key, parts in places.items()})


def _padded(side: int) -> int:
    """The next of SIDES that is not so much larger that padding costs more than a program of its own."""
    at = bisect.bisect_left(SIDES, side)
    return SIDES[at] if at < len(SIDES) and SIDES[at] <= 3 * side else side


def _sides(key: str) -> tuple[int, int]:
    long, short = key.split("x")
    return int(long), int(short)
