"""What a Toybox caption says (`Scene`), its words, and the object it stands for."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import math

import numpy as np

from im3d_jax.data.toybox import primitives as prim
from im3d_jax.data.toybox.nouns import NOUNS
from im3d_jax.data.toybox.nouns.supports import SUPPORTS
from im3d_jax.data.toybox.objects import LARGEST_RADIUS, Coat, ToyObject, assemble
from im3d_jax.data.toybox.palette import COLOURS, PATTERNS, SIZES, WOOD, Colour
from im3d_jax.data.toybox.primitives import SLOTS, Paint, Primitive


WOODEN = "wooden"


@dataclasses.dataclass(frozen=True)
class Part:
    """One named thing: noun, colour, pattern with its colour ("plain" has none)."""

    noun: str
    colour: str
    pattern: str = "plain"
    pattern_colour: str | None = None

    def __post_init__(self):
        _check("noun", self.noun, NOUNS)
        _check("colour", self.colour, COLOURS)
        _check("pattern", self.pattern, PATTERNS)
        if (self.pattern == "plain") != (self.pattern_colour is None):
            raise ValueError(
                f"pattern {self.pattern!r} came with pattern_colour {self.pattern_colour!r}; "
                "give a pattern_colour with every pattern except 'plain'"
            )
        if self.pattern_colour is not None:
            _check("pattern_colour", self.pattern_colour, COLOURS)

    @property
    def words(self) -> str:
        suffix = "" if self.pattern_colour is None else f" with {self.pattern_colour} {self.pattern}"
        return f"{self.colour} {self.noun}{suffix}"

    @property
    def held_out(self) -> bool:
        """Whether noun × colour × pattern is kept out of training: one in ten, by a stable hash."""
        return is_held_out(self.noun, self.colour, self.pattern)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A caption's content.

    Attributes:
        main: the thing.
        size: "small", "" or "large"; only without a second part.
        support: (material, name) of what it stands on; material is "wooden" or a colour.
        neighbour: a second thing beside it.
    """

    main: Part
    size: str = ""
    support: tuple[str, str] | None = None
    neighbour: Part | None = None

    def __post_init__(self):
        _check("size", self.size, SIZES)
        if self.support is not None:
            _check("support material", self.support[0], (*COLOURS, WOODEN))
            _check("support", self.support[1], SUPPORTS)
        if (self.support is not None) + (self.neighbour is not None) + bool(self.size) > 1:
            raise ValueError("a scene has at most one of: a size, a support, a neighbour; leave the others out")

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.main,) if self.neighbour is None else (self.main, self.neighbour)

    @property
    def caption(self) -> str:
        """For example "a blue teapot with white stripes on a wooden table"."""
        text = _with_article(f"{self.size} {self.main.words}".strip())
        if self.support is not None:
            text += f" on {_with_article(' '.join(self.support))}"
        if self.neighbour is not None:
            text += f" next to {_with_article(self.neighbour.words)}"
        return text


def _check(what: str, value: str, allowed) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(value, list(allowed), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown {what} {value!r}, expected one of {', '.join(map(repr, allowed))}{hint}")


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@functools.cache
def is_held_out(noun: str, colour: str, pattern: str) -> bool:
    """One in ten combinations, by SHA-256, the same on every machine."""
    digest = hashlib.sha256(f"{noun} {colour} {pattern}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10 == 0


@functools.cache
def pairable() -> tuple[str, ...]:
    """Nouns simple enough that any two of them, or one and a support, share an object's slots."""
    most = {noun: max(len(build(np.random.default_rng(seed))) for seed in range(4)) for noun, build in NOUNS.items()}
    return tuple(noun for noun, count in most.items() if count <= SLOTS // 2)


def _vocabulary() -> tuple[str, ...]:
    words = {"a", "an", "with", "on", "next", "to", WOODEN, *COLOURS, *NOUNS, *SUPPORTS, *PATTERNS, *SIZES}
    return tuple(sorted(words - {"", "plain"}))


VOCABULARY: tuple[str, ...] = _vocabulary()


def build(scene: Scene, rng: np.random.Generator, *, yaw: float, elevation: float) -> ToyObject:
    """Makes the object of a scene; proportions come from `rng`.

    Args:
        scene: what to make.
        rng: random proportions and, for two things, their sides.
        yaw: radians, counter-clockwise seen from +z; at 0 the front faces +x, the camera of frame 0.
        elevation: radians.

    Returns:
        The object inside the sphere of radius 0.95 about the origin.

    Raises:
        ValueError: the parts need more than 24 primitives together.
    """
    main = NOUNS[scene.main.noun](rng)
    groups = [(main, _coat(scene.main), np.zeros(3), 1.0)]
    if scene.support is not None:
        groups = _on(groups[0], scene.support, rng)
    elif scene.neighbour is not None:
        other = (NOUNS[scene.neighbour.noun](rng), _coat(scene.neighbour), np.zeros(3), 1.0)
        groups = _beside(groups[0], other, rng)
    low, high = SIZES[scene.size] if len(groups) == 1 else SIZES["large"]
    radius = LARGEST_RADIUS * rng.uniform(low, high)
    return assemble(groups, radius=radius, yaw=yaw, elevation=elevation)


Group = tuple[list[Primitive], Coat, np.ndarray, float]


def _coat(part: Part) -> Coat:
    return Coat(part.colour, part.pattern, part.pattern_colour)


def _standing(group: Group, radius: float) -> tuple[Group, np.ndarray]:
    """The group with the given bounding radius, centred in x and y, foot at z = 0; and its half size."""
    items, coat, _, _ = group
    parts = prim.as_arrays(items)
    lowest, highest = prim.bounding_box(parts)
    centre = 0.5 * (lowest + highest)
    scale = radius / prim.bounding_radius(parts, centre)
    foot = np.array([centre[0], centre[1], lowest[2]])
    return (items, coat, -scale * foot, scale), 0.5 * scale * (highest - lowest)


def _on(group: Group, support: tuple[str, str], rng: np.random.Generator) -> list[Group]:
    material, name = support
    coat = Coat("brown" if material == WOODEN else material)
    if material == WOODEN:
        dark: Colour = (0.7 * WOOD[0], 0.7 * WOOD[1], 0.7 * WOOD[2])
        coat.looks.update({Paint.TRIM: (WOOD, WOOD, 0), Paint.SHADE: (dark, dark, 0)})
    standing, _ = _standing(group, rng.uniform(0.58, 0.66))
    # Round cushions sag: what stands on them sinks in a little.
    sink = np.array([0.0, 0.0, 0.02])
    return [
        (standing[0], standing[1], standing[2] - sink, standing[3]),
        (SUPPORTS[name](), coat, np.zeros(3), 1.0),
    ]


def _beside(first: Group, second: Group, rng: np.random.Generator) -> list[Group]:
    a, half_a = _standing(first, rng.uniform(0.58, 0.64))
    b, half_b = _standing(second, rng.uniform(0.46, 0.54))
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    away = np.array([0.0, side * (half_a[1] + half_b[1] + 0.06), 0.0])
    return [a, (b[0], b[1], b[2] + away, b[3])]


def describe(
    *,
    noun: str,
    colour: str,
    pattern: str = "plain",
    pattern_colour: str | None = None,
    size: str = "",
    support: tuple[str, str] | None = None,
    neighbour: Part | None = None,
    seed: int = 0,
    yaw: float = 0.0,
    elevation: float = math.radians(20.0),
) -> tuple[str, ToyObject]:
    """Caption and object of a given description, for prompt lists and tests.

    Args:
        noun: a name in `NOUNS`.
        colour: a name in `COLOURS`.
        pattern: a name in `PATTERNS`.
        pattern_colour: a name in `COLOURS`; needed for every pattern but "plain".
        size: "small", "" or "large".
        support: (material, name), for example ("wooden", "table").
        neighbour: a second thing.
        seed: chooses the proportions.
        yaw: radians.
        elevation: radians.

    Returns:
        (caption, object).

    Raises:
        ValueError: an unknown word, a pattern without its colour, or too many primitives.
    """
    scene = Scene(Part(noun, colour, pattern, pattern_colour), size, support, neighbour)
    return scene.caption, build(scene, np.random.default_rng(seed), yaw=yaw, elevation=elevation)
