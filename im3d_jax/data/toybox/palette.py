"""Colours, surface patterns and sizes that Toybox captions can name."""

from __future__ import annotations


Colour = tuple[float, float, float]

# Albedos before shading. White stays clearly below the white background, black clearly above zero, so that
# shape stays visible at both ends.
COLOURS: dict[str, Colour] = {
    "red": (0.80, 0.11, 0.10),
    "orange": (0.90, 0.47, 0.08),
    "yellow": (0.88, 0.77, 0.12),
    "green": (0.14, 0.56, 0.18),
    "cyan": (0.15, 0.70, 0.74),
    "blue": (0.13, 0.25, 0.78),
    "purple": (0.47, 0.17, 0.64),
    "pink": (0.90, 0.50, 0.66),
    "brown": (0.45, 0.27, 0.13),
    "black": (0.12, 0.12, 0.13),
    "gray": (0.48, 0.48, 0.50),
    "white": (0.84, 0.84, 0.83),
}

# The position in this tuple is the pattern's number in the evaluator.
PATTERNS: tuple[str, ...] = ("plain", "stripes", "dots", "checks", "bands", "zigzags")

# Scale of the bounding sphere's radius: (lowest, highest).
SIZES: dict[str, tuple[float, float]] = {"small": (0.58, 0.66), "": (0.80, 0.92), "large": (0.96, 1.0)}

WOOD: Colour = (0.62, 0.42, 0.22)
DARK_WOOD: Colour = (0.42, 0.27, 0.14)
METAL: Colour = (0.56, 0.58, 0.61)
DARK_METAL: Colour = (0.32, 0.33, 0.36)
RUBBER: Colour = (0.15, 0.15, 0.16)
GLASS: Colour = (0.52, 0.70, 0.80)
CREAM: Colour = (0.80, 0.75, 0.62)
SKIN: Colour = (0.80, 0.60, 0.45)
LEAF: Colour = (0.20, 0.50, 0.16)
SNOW: Colour = (0.79, 0.80, 0.82)
INK: Colour = (0.08, 0.08, 0.09)
PAPER: Colour = (0.79, 0.78, 0.74)
GOLD: Colour = (0.80, 0.62, 0.18)
BRICK: Colour = (0.58, 0.30, 0.22)
BEAK: Colour = (0.88, 0.52, 0.10)
LAMP: Colour = (0.88, 0.82, 0.50)


def contrast(first: str, second: str) -> float:
    """Euclidean distance of two named colours' albedos (0 to about 1.3)."""
    return sum((a - b) ** 2 for a, b in zip(COLOURS[first], COLOURS[second], strict=True)) ** 0.5


# A pattern is drawn only in colours that can be told from the ground at 128 pixels.
PATTERN_COLOURS: dict[str, tuple[str, ...]] = {
    ground: tuple(name for name in COLOURS if contrast(ground, name) >= 0.55) for ground in COLOURS
}
