"""What a mesh file says about an object, whatever its format: triangles with materials, as arrays."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from im3d_jax.errors import InputError


AlphaMode = Literal["opaque", "mask", "blend"]
Wrap = Literal["repeat", "clamp", "mirror"]


class MeshError(InputError):
    """A mesh file that cannot be used; `str` of it is one line."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a mesh file may ask for; checked against its headers, before memory is taken.

    Attributes:
        file_bytes: Of the file and of each file that it names.
        triangles: Of all parts.
        vertices: Of all parts.
        texture_pixels: Of one picture, as stored.
        texture_side: Pictures are scaled down to this many pixels a side.
    """

    file_bytes: int = 512 << 20
    triangles: int = 2_000_000
    vertices: int = 4_000_000
    texture_pixels: int = 70_000_000
    texture_side: int = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Texture:
    """A colour picture on a surface.

    Attributes:
        pixels: [H, W, 4] uint8, sRGB and straight alpha, row 0 at v = 0.
        wrap: What lies outside of [0, 1] in u and in v.
        nearest: Whether a magnified picture shows its texels as squares.
    """

    pixels: np.ndarray
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    nearest: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """The colour of a surface.

    The colour of a point is factor * texture * vertex colour, multiplied as linear light.

    Attributes:
        factor: Linear RGBA in [0, 1].
        texture: Multiplied, where there is one.
        alpha: What alpha means: nothing, a hole below `cutoff`, or how opaque the surface is.
        cutoff: Of "mask".
        emission: Linear RGB of the surface's own light, at least 0.
        emission_texture: Multiplies `emission`; read at the same uv.
        single_sided: Whether the file means triangles to be seen from where they run counter-clockwise only. Opaque
            ones are drawn from both sides all the same, but give way to what lies in the same place.
    """

    factor: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    texture: Texture | None = None
    alpha: AlphaMode = "opaque"
    cutoff: float = 0.5
    emission: tuple[float, float, float] = (0.0, 0.0, 0.0)
    emission_texture: Texture | None = None
    single_sided: bool = False


# An unpainted mesh: light grey in sRGB (0.8), a little darker than white paper.
PLAIN = Material((0.6038, 0.6038, 0.6038, 1.0))


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Triangles of one material.

    Attributes:
        positions: [V, 3] float32.
        triangles: [T, 3] uint32 into the vertices, counter-clockwise seen from outside.
        material: Of all of them.
        normals: [V, 3] float32 of any length; None for flat shading.
        uv: [V, 2] float32, v = 0 at the picture's first row; None without a texture.
        colours: [V, 4] float32, linear RGBA in [0, 1]; None for white.
    """

    positions: np.ndarray
    triangles: np.ndarray
    material: Material = PLAIN
    normals: np.ndarray | None = None
    uv: np.ndarray | None = None
    colours: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Mesh:
    """An object.

    Attributes:
        parts: At least one.
        notes: What was left out or guessed while reading, for people.
    """

    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    @property
    def triangle_count(self) -> int:
        """Triangles of all parts."""
        return sum(len(part.triangles) for part in self.parts)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB values in [0, 1] as linear light (IEC 61966-2-1)."""
    srgb = np.asarray(srgb, np.float32)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] as sRGB values (IEC 61966-2-1)."""
    linear = np.clip(np.asarray(linear, np.float32), 0.0, 1.0)
    high = 1.055 * np.maximum(linear, 1e-8) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, high).astype(np.float32)
