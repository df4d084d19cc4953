"""What example `index` shows, drawn from the seed and the index alone: props, paints, sizes, light; and its caption."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from im3d_jax.data.meshes import rig
from im3d_jax.data.props import paints
from im3d_jax.data.props.catalogue import Prop, catalogue
from im3d_jax.data.props.paints import Paint
from im3d_jax.data.toybox.palette import COLOURS


SPLITS = {"train": (0, 1_000_000), "test": (1, 10_000)}  # (number that seeds the split, nominal length)
MAX_ELEVATION = math.radians(45.0)
RELATIONS = ("on", "next to")
_SEED = 2660_256
# Shares of the scenes with two objects, by their relation.
_ON, _NEXT = 0.12, 0.10
_MOST = 0.6  # of an object: from there on its main colour alone is painted, and named after
_LOWEST_OF_LOW = math.radians(15.0)
_FRONT = 0.5  # of the scenes show the front within 50 degrees, the rest any side


@dataclasses.dataclass(frozen=True)
class Part:
    """One object of a scene.

    Attributes:
        prop: Which.
        paint: Its colours.
        stretch: Factors of its own x, y and z.
        yaw: Radians, within the scene.
        seed: Moves the patterns of its material.
    """

    prop: Prop
    paint: Paint
    stretch: tuple[float, float, float]
    yaw: float
    seed: tuple[float, float, float]

    @property
    def words(self) -> str:
        """It in a caption, with its article."""
        return self.prop.name.with_article(self.paint.words, coloured=self.paint.colour is None)


@dataclasses.dataclass(frozen=True)
class Scene:
    """An example without its pictures.

    Attributes:
        parts: The object, and what it stands on or what is next to it.
        relation: Empty, or one of `RELATIONS`.
        ratio: Size of the second object relative to the first; for "on", of the first to the top it stands on.
        gap: Between two objects, in radii of the scene.
        side: -1 or 1: on which side the second object is.
        radius: Of the sphere about the scene.
        yaw: Of the scene, radians; at 0 the front faces the camera of frame 0.
        elevation: Of the cameras, radians.
        light: Ambient, sky, key and fill strengths; azimuth and elevation of the key light in radians.
    """

    parts: tuple[Part, ...]
    relation: str
    ratio: float
    gap: float
    side: int
    radius: float
    yaw: float
    elevation: float
    light: tuple[float, float, float, float, float, float]

    @property
    def caption(self) -> str:
        """For example "a burger on a wooden table"."""
        return f" {self.relation} ".join(part.words for part in self.parts)


class PropScenes:
    """Scenes of a split, by index.

    A name (`Name.bare`) is in one split alone, with all its objects, colours and materials. The first object of every
    test scene is held out; the second one of a pair is of the training split.

    Args:
        split: "train" or "test".
        seed: Another seed gives other examples of the same props.
        props: What to draw from; None takes the catalogue.

    Raises:
        ValueError: An unknown split.
    """

    def __init__(self, split: str, *, seed: int = 0, props: Sequence[Prop] | None = None):
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; expected 'train' or 'test'")
        self.split, self.seed = split, seed
        self._number, self._length = SPLITS[split]
        self.props = catalogue() if props is None else tuple(props)
        self._main, self._other = _Choice(self.props, split == "test"), _Choice(self.props, False)

    def __len__(self) -> int:
        return self._length

    def caption(self, index: int) -> str:
        """Caption of example `index`."""
        return self.scene(index).caption

    def scene(self, index: int) -> Scene:
        """What example `index` shows.

        Raises:
            IndexError: Outside of the split.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"index {index} is outside the {self.split} split of {self._length} examples")
        rng = np.random.default_rng([_SEED, self._number, self.seed, int(index)])
        kind = rng.uniform()
        if kind < _ON:
            relation, parts = "on", (_part(self._main.carried(rng), rng), _part(self._other.carrier(rng), rng))
        elif kind < _ON + _NEXT:
            first = self._main.standing(rng)
            relation, parts = "next to", (_part(first, rng), _part(self._other.neighbour(first, rng), rng))
        else:
            relation, parts = "", (_part(self._main.any(rng), rng),)
        front = rng.uniform() < _FRONT
        # From its narrow end, or level with it, hardly anything of an object would be seen.
        middle = 0.5 * math.pi if parts[0].prop.deep and not relation else 0.0
        lowest = _LOWEST_OF_LOW if parts[0].prop.low and relation != "next to" else 0.0
        return Scene(
            parts=parts,
            relation=relation,
            ratio=rng.uniform(0.55, 0.9) if relation == "on" else rng.uniform(0.7, 1.0),
            gap=rng.uniform(0.03, 0.12),
            side=1 if rng.uniform() < 0.5 else -1,
            radius=rng.uniform(0.78, 0.95) if not relation else rng.uniform(0.9, 0.95),
            yaw=middle + math.radians(rng.uniform(-50.0, 50.0)) if front else rng.uniform(-math.pi, math.pi),
            elevation=rng.uniform(lowest, MAX_ELEVATION),
            light=(
                rig.AMBIENT + rng.uniform(-0.05, 0.02),
                rig.SKY + rng.uniform(-0.03, 0.03),
                rig.KEY + rng.uniform(-0.07, 0.05),
                rig.FILL + rng.uniform(-0.03, 0.03),
                math.radians(50.0 + rng.uniform(-25.0, 25.0)),
                math.radians(45.0 + rng.uniform(-12.0, 12.0)),
            ),
        )


def vocabulary() -> frozenset[str]:
    """All words that captions of either split may have, in lower case, split at punctuation."""
    texts = [*RELATIONS, "a an plastic", *COLOURS, *paints.MATERIALS, *(words for words, _, _ in paints.USUAL.values())]
    texts += [prop.name.phrase for prop in catalogue()]
    return frozenset(re.findall(r"[a-z0-9]+", " ".join(texts).lower()))


class _Choice:
    """Props of a split, by name: a name with many objects comes as often as others."""

    def __init__(self, props: Sequence[Prop], held_out: bool):
        props = [prop for prop in props if prop.name.held_out == held_out]
        self._all = _by_name(props)
        self._standing = _by_name([prop for prop in props if prop.stands])
        self._small = _by_name([prop for prop in props if prop.stands and not prop.large])
        self._large = _by_name([prop for prop in props if prop.stands and prop.large])
        self._carriers = _by_name([prop for prop in props if prop.carries])

    def any(self, rng: np.random.Generator) -> Prop:
        return _draw(self._all, rng)

    def standing(self, rng: np.random.Generator) -> Prop:
        return _draw(self._standing, rng)

    def carried(self, rng: np.random.Generator) -> Prop:
        return _draw(self._small, rng)

    def carrier(self, rng: np.random.Generator) -> Prop:
        return _draw(self._carriers, rng)

    def neighbour(self, first: Prop, rng: np.random.Generator) -> Prop:
        """Of a like size, of another name."""
        while True:
            prop = _draw(self._large if first.large else self._small, rng)
            if prop.name.bare != first.name.bare:
                return prop


def _by_name(props: list[Prop]) -> tuple[tuple[Prop, ...], ...]:
    names: dict[str, list[Prop]] = {}
    for prop in props:
        names.setdefault(prop.name.bare, []).append(prop)
    return tuple(tuple(names[name]) for name in sorted(names))


def _draw(names: tuple[tuple[Prop, ...], ...], rng: np.random.Generator) -> Prop:
    props = names[rng.integers(len(names))]
    return props[rng.integers(len(props))]


def _part(prop: Prop, rng: np.random.Generator) -> Part:
    wide, high = rng.uniform(0.94, 1.06), rng.uniform(0.87, 1.15)
    return Part(
        prop=prop,
        paint=draw_paint(prop, rng),
        stretch=(wide, 1.0 / wide, high),
        yaw=rng.uniform(-0.35, 0.35),
        seed=tuple(rng.uniform(0.0, 20.0, 3).tolist()),
    )


def draw_paint(prop: Prop, rng: np.random.Generator) -> Paint:
    """Colours of an object: its own, its usual ones, others that the caption names, or a material."""
    choice = rng.uniform()
    phrase = prop.name.bare
    coloured, material = paints.may_be_coloured(phrase), paints.may_be_material(phrase)
    if prop.usual:
        if choice < 0.22 or not coloured:
            return paints.usual(prop.usual, rng, said=False)
        if choice < 0.42 and material:
            return paints.usual(prop.usual, rng, said=True)
        if choice < 0.60 and material and not prop.natural:
            return paints.draw_material(rng)
        return paints.draw_colour(rng, "all", plastic=material)
    enclosed = bool({"in", "full"} & set(phrase.split()))  # the main colour may be that of what is around it
    kept = prop.fixed or enclosed or (prop.name.composite and prop.share < _MOST)
    own = 1.0 if kept else 0.8 if prop.natural else 0.5
    if choice < own or not coloured:
        clear = prop.colour and coloured and not (prop.fixed or prop.natural or enclosed or "[" in prop.name.text)
        said = clear and rng.uniform() < 0.5
        return Paint(prop.colour if said else "")
    if material and not (prop.natural or prop.name.composite) and rng.uniform() < 0.35:
        return paints.draw_material(rng)
    return paints.draw_colour(rng, "main" if prop.share >= _MOST else "all", plastic=material)
