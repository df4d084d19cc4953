"""Toybox: procedural captioned 3D objects, deterministic by index and split, drawn in JAX from any camera."""

from im3d_jax.data.toybox.dataset import Toybox
from im3d_jax.data.toybox.nouns import NOUNS
from im3d_jax.data.toybox.objects import LARGEST_RADIUS, ToyObject, stack
from im3d_jax.data.toybox.palette import COLOURS, PATTERNS, SIZES
from im3d_jax.data.toybox.render import render_object
from im3d_jax.data.toybox.scenes import VOCABULARY, Part, Scene, build, describe, is_held_out
from im3d_jax.data.toybox.synonyms import ALIASES, SYNONYMS


__all__ = [
    "ALIASES",
    "COLOURS",
    "LARGEST_RADIUS",
    "NOUNS",
    "PATTERNS",
    "SIZES",
    "SYNONYMS",
    "VOCABULARY",
    "Part",
    "Scene",
    "ToyObject",
    "Toybox",
    "build",
    "describe",
    "is_held_out",
    "render_object",
    "stack",
]
