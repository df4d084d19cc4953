"""Toybox as a data set: scenes and objects by index and split, the same on every machine."""

from __future__ import annotations

import math

import numpy as np

from im3d_jax.data.toybox.nouns import NOUNS
from im3d_jax.data.toybox.nouns.supports import SUPPORTS
from im3d_jax.data.toybox.objects import ToyObject
from im3d_jax.data.toybox.palette import COLOURS, PATTERN_COLOURS, PATTERNS
from im3d_jax.data.toybox.scenes import WOODEN, Part, Scene, build, pairable


# (number that seeds the split, nominal length)
_SPLITS = {"train": (0, 1_000_000), "test": (1, 10_000)}
_SEED = 2402_08682
MAX_ELEVATION = math.radians(45.0)
# Shares of scenes with a support, with a neighbour, small and large; the rest is one thing of ordinary size.
_SUPPORT, _NEIGHBOUR, _SMALL, _LARGE = 0.08, 0.07, 0.13, 0.13
_PLAIN = 0.35


class Toybox:
    """Captioned objects by index.

    The combinations noun × colour × pattern that `Part.held_out` names never occur in "train", and the main
    part of every scene in "test" is one of them. Yaw is uniform over the circle, elevation over 0 to 45
    degrees; both are fixed by the index.

    Args:
        split: "train" (1,000,000 objects) or "test" (10,000).

    Raises:
        ValueError: an unknown split.
    """

    def __init__(self, split: str):
        if split not in _SPLITS:
            raise ValueError(f"unknown split {split!r}; expected 'train' or 'test'")
        self.split = split
        self._number, self._length = _SPLITS[split]

    def __len__(self) -> int:
        return self._length

    def scene(self, index: int) -> Scene:
        """What the caption of object `index` says."""
        return self._draw(index)[0]

    def caption(self, index: int) -> str:
        """Caption of object `index`."""
        return self._draw(index)[0].caption

    def sample(self, index: int) -> ToyObject:
        """Object `index`, its yaw already applied, with its orbit's elevation."""
        return self.item(index)[1]

    def item(self, index: int) -> tuple[str, ToyObject]:
        """(caption, object) in one draw."""
        scene, rng = self._draw(index)
        yaw, elevation = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0.0, MAX_ELEVATION)
        return scene.caption, build(scene, rng, yaw=yaw, elevation=elevation)

    def _draw(self, index: int) -> tuple[Scene, np.random.Generator]:
        if not 0 <= index < self._length:
            raise IndexError(f"index {index} is outside the {self.split} split of {self._length} objects")
        rng = np.random.default_rng([_SEED, self._number, int(index)])
        held_out = self.split == "test"
        choice = rng.uniform()
        if choice < _SUPPORT:
            name = tuple(SUPPORTS)[rng.integers(len(SUPPORTS))]
            wooden = name != "cushion" and rng.uniform() < 0.5
            material = WOODEN if wooden else _COLOURS[rng.integers(len(_COLOURS))]
            return Scene(_part(rng, pairable(), held_out), support=(material, name)), rng
        choice -= _SUPPORT
        if choice < _NEIGHBOUR:
            main = _part(rng, pairable(), held_out)
            return Scene(main, neighbour=_part(rng, pairable(), False, plain=True)), rng
        choice -= _NEIGHBOUR
        size = "small" if choice < _SMALL else "large" if choice < _SMALL + _LARGE else ""
        return Scene(_part(rng, _NOUNS, held_out), size=size), rng


_NOUNS, _COLOURS = tuple(NOUNS), tuple(COLOURS)


def _part(rng: np.random.Generator, nouns: tuple[str, ...], held_out: bool, *, plain: bool = False) -> Part:
    """Draws until the combination is on the wanted side of the hold-out rule."""
    while True:
        noun, colour = nouns[rng.integers(len(nouns))], _COLOURS[rng.integers(len(_COLOURS))]
        pattern, second = "plain", None
        if not plain and rng.uniform() >= _PLAIN:
            pattern = PATTERNS[1 + rng.integers(len(PATTERNS) - 1)]
            choices = PATTERN_COLOURS[colour]
            second = choices[rng.integers(len(choices))]
        part = Part(noun, colour, pattern, second)
        if part.held_out == held_out:
            return part
