"""Colours and materials that a caption can name, and how each is drawn."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np

from im3d_jax.data.toybox.palette import COLOURS, Colour


# Numbers of `surface` in the shader.
SURFACES = ("matte", "gloss", "wood", "metal", "stone", "marble", "clay")
# What the shader repaints: nothing, the main colour, everything.
SCOPES = ("none", "main", "all")


@dataclasses.dataclass(frozen=True)
class Paint:
    """How an object is drawn, and what its caption says of it.

    Attributes:
        words: "blue", "wooden", "red plastic"; empty where nothing is said.
        colour: sRGB albedo in [0, 1]; None keeps the object's own colours.
        surface: One of `SURFACES`.
        scope: One of `SCOPES`.
    """

    words: str = ""
    colour: Colour | None = None
    surface: str = "matte"
    scope: str = "none"


# A black that still shows its shape without a pattern.
_ALBEDOS: dict[str, Colour] = {**COLOURS, "black": (0.16, 0.16, 0.17)}

# Materials by the caption's word: surface and albedo.
MATERIALS: dict[str, tuple[str, Colour]] = {
    "wooden": ("wood", (0.66, 0.45, 0.25)),
    "metal": ("metal", (0.62, 0.64, 0.67)),
    "golden": ("metal", (0.88, 0.68, 0.20)),
    "bronze": ("metal", (0.62, 0.42, 0.22)),
    "stone": ("stone", (0.56, 0.55, 0.53)),
    "marble": ("marble", (0.84, 0.83, 0.81)),
    "clay": ("clay", (0.74, 0.42, 0.29)),
}

# Looks of unpainted meshes by the table's word: what a caption may say of it, surface and albedo.
USUAL: dict[str, tuple[str, str, Colour]] = {
    "wood": ("wooden", *MATERIALS["wooden"]),
    "metal": ("metal", *MATERIALS["metal"]),
    "gold": ("golden", *MATERIALS["golden"]),
    "bronze": ("bronze", *MATERIALS["bronze"]),
    "stone": ("stone", *MATERIALS["stone"]),
    "clay": ("clay", *MATERIALS["clay"]),
    "iron": ("", "metal", (0.30, 0.30, 0.32)),
    "glass": ("", "gloss", (0.72, 0.85, 0.88)),
    "brick": ("", "stone", (0.62, 0.32, 0.24)),
    "bark": ("", "wood", (0.44, 0.31, 0.20)),
    "rubber": ("", "matte", (0.17, 0.17, 0.18)),
    "card": ("", "matte", (0.74, 0.58, 0.40)),
    "leather": ("", "gloss", (0.43, 0.26, 0.15)),
    "paper": ("", "matte", (0.86, 0.83, 0.74)),
    "bone": ("", "matte", (0.86, 0.80, 0.66)),
    "cream": ("", "matte", (0.89, 0.82, 0.62)),
    "bread": ("", "matte", (0.86, 0.70, 0.45)),
    "tan": ("", "matte", (0.80, 0.62, 0.42)),
    "salmon": ("", "matte", (0.93, 0.54, 0.42)),
    **{word: (word, "matte", colour) for word, colour in _ALBEDOS.items()},
}

# A name with one of these says its material or colour already.
_MATERIAL_WORDS = frozenset(
    "wooden metal stone clay glass brick cardboard paper rubber bamboo golden gold concrete plastic snow moss".split()
)
_COLOUR_WORDS = frozenset(
    {*COLOURS, "golden", "gold", "stop", "warning", "police", "burnt", "raw", "snow", "moss", "autumn"}
)
_PLASTIC, _GLOSS = 0.2, 0.4


def may_be_material(phrase: str) -> bool:
    """Whether a name says no material yet."""
    return not _MATERIAL_WORDS & set(phrase.split())


def may_be_coloured(phrase: str) -> bool:
    """Whether a name says no colour yet, nor means one."""
    return not _COLOUR_WORDS & set(phrase.split())


def draw_colour(rng: np.random.Generator, scope: str, *, plastic: bool) -> Paint:
    """A named colour, a little off its albedo; glossy at times, and called plastic at times where that is allowed."""
    word = tuple(COLOURS)[rng.integers(len(COLOURS))]
    choice, colour = rng.uniform(), _varied(_ALBEDOS[word], rng)
    if plastic and scope == "all" and choice < _PLASTIC:
        return Paint(f"{word} plastic", colour, "gloss", scope)
    return Paint(word, colour, "gloss" if choice < _GLOSS else "matte", scope)


def draw_material(rng: np.random.Generator) -> Paint:
    """A named material over everything."""
    word = tuple(MATERIALS)[rng.integers(len(MATERIALS))]
    surface, colour = MATERIALS[word]
    return Paint(word, _varied(colour, rng), surface, "all")


def usual(look: str, rng: np.random.Generator, *, said: bool) -> Paint:
    """The look that an unpainted mesh usually has; `said` puts it into the caption where it has a word."""
    words, surface, colour = USUAL[look]
    return Paint(words if said else "", _varied(colour, rng), surface, "all")


def _varied(colour: Colour, rng: np.random.Generator) -> Colour:
    """A colour of the same name: brightness within 8 %, hue within 5 degrees, saturation within 6 %."""
    bright, turn, pure = rng.uniform(0.92, 1.08), rng.uniform(-5.0, 5.0) / 360.0, rng.uniform(0.94, 1.06)
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    return colorsys.hsv_to_rgb((hue + turn) % 1.0, min(1.0, saturation * pure), min(0.95, value * bright))
