"""Materials of glTF as plain colours: factors are linear light, pictures are sRGB."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from im3d_jax.data.meshes import textures
from im3d_jax.data.meshes.gltf_file import GltfFile
from im3d_jax.data.meshes.model import AlphaMode, Limits, Material, MeshError, Texture, Wrap, to_linear


_WRAPS: dict[int, Wrap] = {33071: "clamp", 33648: "mirror", 10497: "repeat"}
_NEAREST = 9728
_ALPHA: dict[str, AlphaMode] = {"OPAQUE": "opaque", "MASK": "mask", "BLEND": "blend"}
# Pictures in formats that Pillow reads, by the extension that may replace a texture's source.
_READABLE_SOURCES = ("EXT_texture_webp", "EXT_texture_avif")


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a material's pictures lie: the set of coordinates, and an affine map of them.

    Attributes:
        channel: Number of TEXCOORD.
        matrix: [2, 3] float64, applied to (u, v, 1); None for the coordinates as they are.
    """

    channel: int = 0
    matrix: np.ndarray | None = None

    def apply(self, uv: np.ndarray) -> np.ndarray:
        """The coordinates [V, 2] at which the picture is read."""
        return uv if self.matrix is None else uv @ self.matrix[:, :2].T + self.matrix[:, 2]

    def same(self, other: Placement) -> bool:
        """Whether both read at the same place."""
        mine, theirs = (np.eye(2, 3) if item.matrix is None else item.matrix for item in (self, other))
        return self.channel == other.channel and np.array_equal(mine, theirs)


class Materials:
    """Reads each material, and each picture, once.

    Args:
        file: The opened file.
        limits: Of the pictures.
        notes: Takes a remark on what is left out.
    """

    def __init__(self, file: GltfFile, limits: Limits, notes: list[str]):
        self._file, self._limits, self._notes = file, limits, notes
        self._materials: dict[int | None, tuple[Material, Placement | None]] = {}
        self._pixels: dict[tuple[int, bool, bool], np.ndarray] = {}
        self._srgb_factors = _factors_are_srgb(file)
        if self._srgb_factors:
            notes.append("colour factors taken for sRGB, as their exporter wrote them")

    def get(self, index: int | None) -> tuple[Material, Placement | None]:
        """Material `index` (None: glTF's default, white), and where its pictures lie (None without any)."""
        if index not in self._materials:
            entry = {} if index is None else self._file.item("materials", index)
            self._materials[index] = self._read(entry)
        return self._materials[index]

    def _read(self, entry: dict[str, Any]) -> tuple[Material, Placement | None]:
        extensions = entry.get("extensions", {})
        base = entry.get("pbrMetallicRoughness", {})
        factor, slot = base.get("baseColorFactor", (1, 1, 1, 1)), base.get("baseColorTexture")
        glossy = extensions.get("KHR_materials_pbrSpecularGlossiness")
        if glossy is not None:
            factor, slot = glossy.get("diffuseFactor", (1, 1, 1, 1)), glossy.get("diffuseTexture")
        factor = _numbers(factor, 4, 1.0)
        if self._srgb_factors:
            r, g, b = to_linear(np.array(factor[:3])).tolist()
            factor = (r, g, b, factor[3])
        mode = entry.get("alphaMode", "OPAQUE")
        if mode not in _ALPHA:
            raise MeshError(f"is damaged: alphaMode {mode!r}")
        strength = float(extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1.0))
        emission = tuple(max(0.0, float(value)) * strength for value in entry.get("emissiveFactor", (0, 0, 0)))
        glow_slot = entry.get("emissiveTexture") if any(emission) else None
        place, glow_place = _placement(slot), _placement(glow_slot)
        if place is not None and glow_place is not None and not place.same(glow_place):
            self._notes.append("emission left out: its picture has coordinates of its own")
            emission, glow_slot = (0.0, 0.0, 0.0), None
        material = Material(
            factor=factor,
            texture=None if slot is None else self._texture(slot, alpha=mode != "OPAQUE"),
            alpha=_ALPHA[mode],
            cutoff=float(entry.get("alphaCutoff", 0.5)),
            emission=_numbers(emission, 3, math.inf),
            emission_texture=None if glow_slot is None else self._texture(glow_slot, alpha=False),
            single_sided=not entry.get("doubleSided", False),
        )
        return material, glow_place if place is None else place

    def _texture(self, slot: dict[str, Any], *, alpha: bool) -> Texture:
        texture = self._file.item("textures", slot["index"])
        extensions = texture.get("extensions", {})
        source = next((extensions[name]["source"] for name in _READABLE_SOURCES if name in extensions), None)
        source = texture.get("source") if source is None else source
        if source is None:
            names = ", ".join(extensions) or "no source"
            raise MeshError(f"has a texture in a format that is not read ({names}); save it with PNG or JPEG")
        sampler = self._file.item("samplers", texture["sampler"]) if "sampler" in texture else {}
        nearest = sampler.get("magFilter") == _NEAREST
        key = (source, alpha, nearest)
        if key not in self._pixels:
            content, name = self._file.picture(source)
            self._pixels[key] = textures.decode(content, name, self._limits, alpha=alpha, nearest=nearest)
        wraps: list[Wrap] = [_WRAPS.get(sampler.get(name, 10497), "repeat") for name in ("wrapS", "wrapT")]
        return Texture(self._pixels[key], (wraps[0], wraps[1]), nearest)


def _factors_are_srgb(file: GltfFile) -> bool:
    """Whether the file has sRGB values where glTF wants linear ones: UniGLTF 1 wrote bytes of the colour over 255."""
    if not str(file.document["asset"].get("generator", "")).startswith("UniGLTF-1."):
        return False
    factors = [item.get("pbrMetallicRoughness", {}).get("baseColorFactor", ()) for item in file.items("materials")]
    scaled = [255.0 * float(value) for factor in factors for value in factor[:3]]
    return all(abs(value - round(value)) < 1e-3 for value in scaled)


def _numbers(values: Any, count: int, highest: float) -> Any:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(math.isfinite(value) for value in numbers):
        raise MeshError(f"is damaged: a colour {values}")
    return tuple(min(max(value, 0.0), highest) for value in numbers)


def _placement(slot: dict[str, Any] | None) -> Placement | None:
    """Of a textureInfo, with KHR_texture_transform.

    Rotation is counter-clockwise on the picture, whose v points down, as Khronos' sample viewer and three.js have it.
    """
    if slot is None:
        return None
    moved = slot.get("extensions", {}).get("KHR_texture_transform")
    if moved is None:
        return Placement(slot.get("texCoord", 0))
    offset, scale = moved.get("offset", (0.0, 0.0)), moved.get("scale", (1.0, 1.0))
    c, s = math.cos(moved.get("rotation", 0.0)), math.sin(moved.get("rotation", 0.0))
    matrix = np.array([[c * scale[0], s * scale[1], offset[0]], [-s * scale[0], c * scale[1], offset[1]]])
    return Placement(moved.get("texCoord", slot.get("texCoord", 0)), matrix)
