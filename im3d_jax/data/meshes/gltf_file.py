"""The container of glTF 2.0: JSON, buffers, accessors and pictures, from .gltf and .glb files."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from im3d_jax.data.meshes.files import Files
from im3d_jax.data.meshes.model import Limits, MeshError


_COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_JSON_BYTES = 64 << 20


class GltfFile:
    """An opened glTF file.

    Args:
        files: The file and its references.
        limits: Of counts; checked before an accessor is read.

    Attributes:
        document: The JSON.

    Raises:
        MeshError: It is no glTF 2.0 file, or a damaged one.
    """

    def __init__(self, files: Files, limits: Limits):
        self._files = files
        self._limits = limits
        self._binary: bytes | None = None
        self._buffers: dict[int, bytes] = {}
        content = files.main()
        text = self._container(content) if content[:4] == b"glTF" else content
        if len(text) > _JSON_BYTES:
            raise MeshError(f"its JSON has {len(text) >> 20} MiB, more than {_JSON_BYTES >> 20} MiB")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MeshError(f"is no glTF file ({error})") from None
        if not isinstance(document, dict) or "asset" not in document:
            raise MeshError("is no glTF file: it has no asset")
        version = str(document["asset"].get("version", ""))
        if not version.startswith("2."):
            raise MeshError(f"is glTF {version or 'of an unknown version'}; expected 2.0")
        self.document: dict[str, Any] = document

    def _container(self, content: bytes) -> bytes:
        """The JSON chunk of a .glb file; keeps the binary chunk."""
        if len(content) < 20:
            raise MeshError("is a truncated GLB file")
        _, version, length = struct.unpack_from("<4sII", content)
        if version != 2:
            raise MeshError(f"is a GLB file of version {version}; expected 2")
        if length > len(content):
            raise MeshError(f"is truncated: {len(content)} bytes of {length}")
        chunks, offset = {}, 12
        while offset + 8 <= length:
            size, kind = struct.unpack_from("<I4s", content, offset)
            if offset + 8 + size > length:
                raise MeshError("is a damaged GLB file: a chunk is longer than the file")
            chunks.setdefault(kind, content[offset + 8 : offset + 8 + size])
            offset += 8 + size
        self._binary = chunks.get(b"BIN\0")
        if b"JSON" not in chunks:
            raise MeshError("is a damaged GLB file: it has no JSON")
        return chunks[b"JSON"]

    def items(self, name: str) -> list[dict[str, Any]]:
        """A list of the document; empty where it is absent."""
        return self.document.get(name) or []

    def item(self, name: str, index: int) -> dict[str, Any]:
        """Entry `index` of a list of the document.

        Raises:
            MeshError: There is none.
        """
        found = self.items(name)
        if not isinstance(index, int) or not 0 <= index < len(found):
            raise MeshError(f"is damaged: it refers to {name}[{index}] of {len(found)}")
        return found[index]

    def view(self, index: int) -> memoryview:
        """Bytes of a buffer view."""
        view = self.item("bufferViews", index)
        if "EXT_meshopt_compression" in view.get("extensions", {}):
            raise MeshError("is compressed by meshopt, which is not read; save it without, or with Draco")
        data = self._buffer(view["buffer"])
        start, length = view.get("byteOffset", 0), view["byteLength"]
        if start < 0 or length < 0 or start + length > len(data):
            raise MeshError(f"is damaged: bufferViews[{index}] is longer than its buffer")
        return memoryview(data)[start : start + length]

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            buffer = self.item("buffers", index)
            if "uri" in buffer:
                self._buffers[index] = self._files.reference(buffer["uri"])
            elif self._binary is not None and index == 0:
                self._buffers[index] = self._binary
            else:
                raise MeshError(f"is damaged: buffers[{index}] has no data")
        return self._buffers[index]

    def count(self, index: int) -> int:
        """Elements of an accessor, by its header.

        Raises:
            MeshError: There are more than any mesh within the limits has.
        """
        count = self.item("accessors", index)["count"]
        most = max(self._limits.vertices, 3 * self._limits.triangles)
        if not isinstance(count, int) or not 0 <= count <= most:
            raise MeshError(f"has an accessor of {count} elements; at most {most} are read")
        return count

    def kind(self, index: int) -> np.dtype:
        """The type in which an accessor's numbers are stored."""
        return np.dtype(_COMPONENTS[self.item("accessors", index)["componentType"]]).newbyteorder("<")

    def accessor(self, index: int) -> np.ndarray:
        """An accessor's values: [count, width], float32 where normalised, else of the stored type."""
        accessor = self.item("accessors", index)
        count, width = self.count(index), _WIDTHS[accessor["type"]]
        kind = self.kind(index)
        if "bufferView" in accessor:
            values = self._strided(accessor["bufferView"], accessor.get("byteOffset", 0), kind, count, width)
        else:
            values = np.zeros((count, width), kind)
        if "sparse" in accessor:
            values = self._sparse(values, accessor["sparse"], kind, width)
        return normalise(values) if accessor.get("normalized") else values

    def _strided(self, view: int, offset: int, kind: np.dtype, count: int, width: int) -> np.ndarray:
        data = self.view(view)
        step = self.item("bufferViews", view).get("byteStride") or kind.itemsize * width
        if count and offset + step * (count - 1) + kind.itemsize * width > len(data):
            raise MeshError(f"is damaged: an accessor reaches beyond bufferViews[{view}]")
        return np.ndarray((count, width), kind, data, offset, (step, kind.itemsize))

    def _sparse(self, values: np.ndarray, sparse: dict[str, Any], kind: np.dtype, width: int) -> np.ndarray:
        where, what, count = sparse["indices"], sparse["values"], sparse["count"]
        index_kind = np.dtype(_COMPONENTS[where["componentType"]]).newbyteorder("<")
        rows = self._strided(where["bufferView"], where.get("byteOffset", 0), index_kind, count, 1)[:, 0]
        values = values.copy()
        values[rows] = self._strided(what["bufferView"], what.get("byteOffset", 0), kind, count, width)
        return values

    def picture(self, index: int) -> tuple[bytes, str]:
        """Content and name of an image."""
        image = self.item("images", index)
        if "bufferView" in image:
            return bytes(self.view(image["bufferView"])), str(image.get("name") or f"images[{index}]")
        uri = image["uri"]
        return self._files.reference(uri), "in a data URI" if uri.startswith("data:") else uri


def normalise(values: np.ndarray) -> np.ndarray:
    """Integers as the numbers in [0, 1] or [-1, 1] that they stand for; float32."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    return np.maximum(values.astype(np.float32) / np.iinfo(values.dtype).max, -1.0)
