"""The node tree of glTF: which meshes a scene shows, and where; skins in their rest pose."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from im3d_jax.data.meshes.gltf_file import GltfFile
from im3d_jax.data.meshes.model import MeshError


def local_matrix(node: dict[str, Any]) -> np.ndarray:
    """A node's transform, [4, 4] float64, for column vectors."""
    if "matrix" in node:
        return np.asarray(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = (float(value) for value in node.get("rotation", (0.0, 0.0, 0.0, 1.0)))
    length = math.sqrt(x * x + y * y + z * z + w * w) or 1.0
    x, y, z, w = x / length, y / length, z / length, w / length
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.asarray(node.get("scale", (1.0, 1.0, 1.0)), np.float64)
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix


class NodeTree:
    """World transforms of all nodes.

    Args:
        file: The opened file.

    Attributes:
        worlds: One [4, 4] float64 per node.

    Raises:
        MeshError: The nodes form no tree.
    """

    def __init__(self, file: GltfFile):
        self._file = file
        nodes = file.items("nodes")
        children = {child for node in nodes for child in node.get("children", ())}
        self._roots = [index for index in range(len(nodes)) if index not in children]
        self.worlds: list[np.ndarray] = [np.eye(4)] * len(nodes)
        for index, parent in self._walk(self._roots):
            matrix = local_matrix(nodes[index])
            self.worlds[index] = matrix if parent is None else self.worlds[parent] @ matrix

    def _walk(self, starts: list[int]) -> Iterator[tuple[int, int | None]]:
        """(node, its parent) of all nodes under some, parents first."""
        seen: set[int] = set()
        stack: list[tuple[int, int | None]] = [(start, None) for start in reversed(starts)]
        while stack:
            index, parent = stack.pop()
            if index in seen:
                raise MeshError(f"is damaged: nodes[{index}] is reached twice")
            seen.add(index)
            yield index, parent
            stack += [(child, index) for child in reversed(self._file.item("nodes", index).get("children", ()))]

    def shown(self) -> Iterator[int]:
        """Nodes with a mesh in the default scene; in all of the file where there is no scene."""
        scenes = self._file.items("scenes")
        starts = self._roots
        if scenes:
            starts = list(self._file.item("scenes", self._file.document.get("scene", 0)).get("nodes", ()))
        for index, _ in self._walk(starts):
            if "mesh" in self._file.item("nodes", index):
                yield index

    def joints(self, skin: int) -> np.ndarray:
        """From the bind pose to the pose that the nodes have: [J, 4, 4] float64."""
        entry = self._file.item("skins", skin)
        worlds = np.stack([self.worlds[joint] for joint in entry["joints"]])
        if "inverseBindMatrices" not in entry:
            return worlds
        inverse = self._file.accessor(entry["inverseBindMatrices"]).astype(np.float64)
        return worlds @ inverse.reshape(-1, 4, 4).transpose(0, 2, 1)[: len(worlds)]


def skinning(attributes: dict[str, np.ndarray], joints: np.ndarray) -> np.ndarray | None:
    """One matrix per vertex, [V, 4, 4] float64: the mean of its joints', weighted; None without weights."""
    total, sums = None, None
    for number in range(8):
        if f"WEIGHTS_{number}" not in attributes or f"JOINTS_{number}" not in attributes:
            break
        weights = attributes[f"WEIGHTS_{number}"].astype(np.float64)
        which = attributes[f"JOINTS_{number}"].astype(np.int64)
        if which.max(initial=0) >= len(joints):
            raise MeshError(f"is damaged: joint {which.max()} of a skin of {len(joints)}")
        total = np.zeros((len(weights), 4, 4)) if total is None else total
        for k in range(weights.shape[1]):  # one at a time: all at once takes eight times the memory
            total += weights[:, k, None, None] * joints[which[:, k]]
        sums = weights.sum(1) if sums is None else sums + weights.sum(1)
    if total is None or sums is None:
        return None
    unweighted = sums < 1e-6
    matrices = total / np.where(unweighted, 1.0, sums)[:, None, None]
    matrices[unweighted] = np.eye(4)
    return matrices


def transform_points(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [V, 3] by one matrix [4, 4] or one each [V, 4, 4]; float64."""
    return np.einsum("...ij,...j->...i", matrices[..., :3, :3], points) + matrices[..., :3, 3]


def transform_normals(matrices: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Normals [V, 3] as covectors, so that they stay at right angles and point outward; float64, of any length.

    Uses the adjugate, which exists for flattened objects too.
    """
    m = matrices[..., :3, :3]
    adjugate = np.stack(
        [np.cross(m[..., 1], m[..., 2]), np.cross(m[..., 2], m[..., 0]), np.cross(m[..., 0], m[..., 1])], -1
    )
    sign = np.where(np.linalg.det(m) < 0.0, -1.0, 1.0)
    return np.einsum("...ij,...j->...i", adjugate, normals) * sign[..., None]
