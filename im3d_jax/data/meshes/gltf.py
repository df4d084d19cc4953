"""Reads glTF 2.0 (.gltf, .glb): the default scene in its rest pose, as one mesh.

Own code, where a general loader would be the obvious choice, for what training pictures need: linear colour factors,
texture transforms and samplers, alpha modes, Draco, skins and morph targets at rest, and limits that are checked
against the file's headers before memory is taken.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from im3d_jax.data.meshes import draco
from im3d_jax.data.meshes.files import Files
from im3d_jax.data.meshes.gltf_file import GltfFile, normalise
from im3d_jax.data.meshes.gltf_materials import Materials, Placement
from im3d_jax.data.meshes.gltf_nodes import NodeTree, skinning, transform_normals, transform_points
from im3d_jax.data.meshes.model import Limits, Material, Mesh, MeshError, Part


_TRIANGLES, _STRIP, _FAN = 4, 5, 6
# Without these a file cannot be drawn as meant; other required extensions change no colour or shape here.
_UNREADABLE = ("EXT_meshopt_compression", "KHR_texture_basisu")


def read_gltf(files: Files, limits: Limits) -> Mesh:
    """Reads a glTF file; y is up, z points to its front.

    Raises:
        MeshError: It is damaged, too large, empty, or uses what is not read.
    """
    try:
        return _Reader(files, limits).mesh()
    except MeshError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
        raise MeshError(f"is damaged ({type(error).__name__}: {error})") from None


class _Reader:
    def __init__(self, files: Files, limits: Limits):
        self._file, self._limits = GltfFile(files, limits), limits
        self._notes: list[str] = []
        self._materials = Materials(self._file, limits, self._notes)
        self._vertices = self._triangles = 0
        for name in self._file.document.get("extensionsRequired", ()):
            if name in _UNREADABLE:
                raise MeshError(f"requires {name}, which is not read; save it without")

    def mesh(self) -> Mesh:
        tree = NodeTree(self._file)
        parts: list[Part] = []
        for index in tree.shown():
            node = self._file.item("nodes", index)
            if "EXT_mesh_gpu_instancing" in node.get("extensions", {}):
                self._notes.append("instances left out: one of each is drawn")
            mesh = self._file.item("meshes", node["mesh"])
            weights = node.get("weights", mesh.get("weights", ()))
            joints = tree.joints(node["skin"]) if "skin" in node else None
            for primitive in mesh["primitives"]:
                part = self._part(primitive, tree.worlds[index], joints, weights)
                if part is not None:
                    parts.append(part)
        return Mesh(tuple(parts), tuple(dict.fromkeys(self._notes)))

    def _part(
        self, primitive: dict[str, Any], world: np.ndarray, joints: np.ndarray | None, weights: Any
    ) -> Part | None:
        mode = primitive.get("mode", _TRIANGLES)
        if mode not in (_TRIANGLES, _STRIP, _FAN):
            self._notes.append("points and lines left out")
            return None
        self._spend(primitive)
        attributes, triangles = self._geometry(primitive, mode)
        if "POSITION" not in attributes or not len(triangles):
            return None
        positions = attributes["POSITION"].astype(np.float64)
        normals = attributes.get("NORMAL")
        for target, weight in zip(primitive.get("targets", ()), weights, strict=False):
            if weight and "POSITION" in target:
                positions = positions + weight * self._file.accessor(target["POSITION"])
        matrices = world
        if joints is not None:
            skinned = skinning(attributes, joints)
            matrices = world if skinned is None else skinned
        if matrices is world and np.linalg.det(world[:3, :3]) < 0.0:
            triangles = triangles[:, ::-1]  # a mirror turns the winding round
        material, placement = self._materials.get(primitive.get("material"))
        colours = _colours(attributes.get("COLOR_0"))
        return Part(
            transform_points(matrices, positions).astype(np.float32),
            triangles,
            material,
            None if normals is None else transform_normals(matrices, normals.astype(np.float64)).astype(np.float32),
            self._uv(attributes, material, placement),
            None if colours is None or self._is_mask(colours, material) else colours,
        )

    def _is_mask(self, colours: np.ndarray, material: Material) -> bool:
        """Whether vertex colours are a tool's selection that an exporter took along, and not paint.

        Such values are 0 or 1 without a hue, on a material that already has a colour of its own; painted models have
        white ones.
        """
        rgb = colours[:, :3]
        without_hue = np.ptp(rgb, 1).max() < 1e-3 and np.ptp(material.factor[:3]) < 1e-3
        coloured = material.texture is None and material.factor[0] < 0.99
        mask = bool(without_hue and coloured and (rgb < 1e-3).all(1).mean() > 0.02)
        if mask:
            self._notes.append("vertex colours left out: black and white, on a grey material")
        return mask

    def _spend(self, primitive: dict[str, Any]) -> None:
        """Counts a primitive by its headers, before it is read."""
        vertices = self._file.count(primitive["attributes"]["POSITION"])
        corners = self._file.count(primitive["indices"]) if "indices" in primitive else vertices
        self._vertices += vertices
        self._triangles += corners // 3 if primitive.get("mode", _TRIANGLES) == _TRIANGLES else corners
        for count, most, name in (
            (self._vertices, self._limits.vertices, "vertices"),
            (self._triangles, self._limits.triangles, "triangles"),
        ):
            if count > most:
                raise MeshError(f"has more than {most} {name}; simplify it first")

    def _geometry(self, primitive: dict[str, Any], mode: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        names = {name: number for name, number in primitive["attributes"].items() if not name.startswith("_")}
        packed = primitive.get("extensions", {}).get("KHR_draco_mesh_compression")
        if packed is not None:
            view = bytes(self._file.view(packed["bufferView"]))
            attributes, triangles = draco.decode(view, packed["attributes"], self._limits)
            for name, number in names.items():
                if name in attributes:
                    # DracoPy widens small integers, and the type decides what a normalised one stands for.
                    values = attributes[name].astype(self._file.kind(number))
                    normalised = self._file.item("accessors", number).get("normalized")
                    attributes[name] = normalise(values) if normalised else values
        else:
            attributes = {name: self._file.accessor(number) for name, number in names.items()}
            count = len(attributes["POSITION"])
            corners = np.arange(count, dtype=np.uint32)
            if "indices" in primitive:
                corners = self._file.accessor(primitive["indices"])[:, 0].astype(np.uint32)
            triangles = _triangles(corners, mode)
        count = len(attributes["POSITION"])
        if any(len(values) != count for values in attributes.values()):
            raise MeshError("is damaged: attributes of different lengths")
        if len(triangles) and triangles.max() >= count:
            raise MeshError(f"is damaged: vertex {triangles.max()} of {count}")
        return attributes, triangles

    def _uv(
        self, attributes: dict[str, np.ndarray], material: Material, placement: Placement | None
    ) -> np.ndarray | None:
        if placement is None:
            return None
        name = f"TEXCOORD_{placement.channel}"
        if name not in attributes:
            self._notes.append(f"a textured part has no {name}: the picture's corner is taken")
            return np.zeros((len(attributes["POSITION"]), 2), np.float32)
        return placement.apply(attributes[name].astype(np.float64)).astype(np.float32)


def _triangles(corners: np.ndarray, mode: int) -> np.ndarray:
    """[T, 3] uint32 of a list, a strip or a fan."""
    if mode == _TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    if len(corners) < 3:
        return np.zeros((0, 3), np.uint32)
    if mode == _STRIP:
        strip = np.stack([corners[:-2], corners[1:-1], corners[2:]], -1)
        strip[1::2] = strip[1::2, ::-1]
        return strip
    return np.stack([np.broadcast_to(corners[0], len(corners) - 2), corners[1:-1], corners[2:]], -1)


def _colours(values: np.ndarray | None) -> np.ndarray | None:
    """COLOR_0, RGB or RGBA, as linear RGBA in [0, 1]."""
    if values is None:
        return None
    if values.dtype.kind != "f":  # compressed, and not marked as normalised
        values = normalise(values)
    rgba = np.ones((len(values), 4), np.float32)
    rgba[:, : values.shape[1]] = np.clip(np.nan_to_num(values), 0.0, 1.0)
    return rgba
