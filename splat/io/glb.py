"""The container of binary glTF 2.0: a JSON chunk and a binary chunk, neither of which is trusted."""

import json
import re
import struct
from collections.abc import Collection
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from splat.io.files import Malformed


_HEADER, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")
_MOST_JSON = 1 << 22
_COMPONENTS = {5120: "b", 5121: "B", 5122: "h", 5123: "H", 5125: "I", 5126: "f"}
_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}


def write_glb(
    document: dict[str, Any], primitive: dict[str, Any], attributes: dict[str, Shaped[np.ndarray, "N *width"]]
) -> bytes:
    """Encodes a file with one primitive.

    Args:
        document: glTF document that holds `primitive`, without buffers, views and accessors.
        primitive: Receives its attributes.
        attributes: Arrays [N] or [N, 3 or 4] by name: little-endian float32, or uint8 for numbers from 0 to 1.

    Returns:
        The file's bytes.

    Raises:
        ValueError: The file would be larger than the format's 4 GiB.
    """
    views, accessors, chunks, size = [], [], [], 0
    for values in attributes.values():
        raw = values.tobytes()
        views.append({"buffer": 0, "byteOffset": size, "byteLength": len(raw), "target": 34962})
        accessor = {
            "bufferView": len(accessors),
            "componentType": 5121 if values.dtype == np.uint8 else 5126,
            "normalized": values.dtype == np.uint8,
            "count": len(values),
            "type": {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[values.size // len(values)],
        }
        accessors.append(accessor)
        chunks += [raw, b"\0" * (-len(raw) % 4)]
        size += len(raw) + -len(raw) % 4
    positions = attributes["POSITION"]
    accessors[0] |= {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    primitive["attributes"] = {name: index for index, name in enumerate(attributes)}
    document = document | {"buffers": [{"byteLength": size}], "bufferViews": views, "accessors": accessors}
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = _HEADER.size + 2 * _CHUNK.size + len(text) + size
    if total >= 2**32:
        raise ValueError(f"{total} bytes are more than the {2**32} of a .glb file; write fewer gaussians")
    start = _HEADER.pack(b"glTF", 2, total) + _CHUNK.pack(len(text), b"JSON")
    return b"".join([start, text, _CHUNK.pack(size, b"BIN\0"), *chunks])


class GlbReader:
    """Typed access to the document and the binary chunk of a file.

    Every method raises `Malformed` where the document holds a value of another type.

    Attributes:
        document: The JSON object.

    Raises:
        Malformed: The bytes are no binary glTF 2.0 file.
    """

    def __init__(self, data: bytes):
        if len(data) < _HEADER.size or data[:4] != b"glTF":
            raise Malformed("does not start with 'glTF'")
        _, version, length = _HEADER.unpack_from(data)
        if version != 2:
            raise Malformed(f"has glTF version {version}; expected 2")
        if length > len(data):
            raise Malformed(f"truncated: {length} bytes are announced, {len(data)} are there")
        kind, text, offset = _chunk(data, _HEADER.size)
        if kind != b"JSON" or len(text) > _MOST_JSON:
            raise Malformed(f"does not begin with a JSON chunk of at most {_MOST_JSON} bytes")
        try:
            self.document = json.loads(bytes(text).decode())
        except (ValueError, RecursionError):
            raise Malformed("holds a JSON chunk that cannot be parsed") from None
        if not isinstance(self.document, dict):
            raise Malformed("holds JSON that is no object")
        self._check_version()
        self._binary = memoryview(b"")
        if offset < len(data):
            kind, binary, _ = _chunk(data, offset)
            self._binary = binary if kind == b"BIN\0" else self._binary

    def _check_version(self) -> None:
        """Refuses documents for readers of a later glTF than 2.0 (glTF 2.0 specification, section 3.2)."""
        asset = self.mapping(self.document, "asset")
        # Files of the same major version may be read, unless they ask for more.
        version, least = asset.get("version", "2.0"), asset.get("minVersion", "2.0")
        for name, value in (("version", version), ("minVersion", least)):
            if not isinstance(value, str) or re.fullmatch(r"\d{1,4}\.\d{1,4}", value) is None:
                raise Malformed(f"has asset.{name} {str(value)[:20]!r}; expected text such as '2.0'")
        if version.split(".")[0] != "2" or [int(part) for part in least.split(".")] > [2, 0]:
            raise Malformed(f"has glTF version {version} and minVersion {least}; files for readers of 2.0 are read")

    def refuse_required(self, known: Collection[str]) -> None:
        """Refuses documents whose `extensionsRequired` names others: a reader that lacks one must not go on."""
        names = self.document.get("extensionsRequired", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Malformed("holds 'extensionsRequired' that is no list of names")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise Malformed(f"requires the glTF extension {', '.join(unknown)[:80]!r}, which is not read")

    def mapping(self, parent: dict[str, Any], key: str) -> dict[str, Any]:
        """parent[key] as an object, empty where it is missing."""
        value = parent.get(key, {})
        if not isinstance(value, dict):
            raise Malformed(f"holds {key!r} that is no object")
        return value

    def objects(self, parent: dict[str, Any], key: str) -> list[dict[str, Any]]:
        """parent[key] as a list of objects, empty where it is missing."""
        values = parent.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise Malformed(f"holds {key!r} that is no list of objects")
        return values

    def indices(self, parent: dict[str, Any], key: str) -> list[int]:
        """parent[key] as a list of indices, empty where it is missing."""
        values = parent.get(key, [])
        if not isinstance(values, list) or not all(_is_index(value) for value in values):
            raise Malformed(f"holds {key!r} that is no list of indices")
        return values

    def item(self, key: str, index: Any) -> dict[str, Any]:
        """Object `index` (as the document gives it) of the document's list `key`."""
        items = self.document.get(key)
        if not isinstance(items, list) or not _is_index(index) or index >= len(items):
            raise Malformed(f"refers to one of its {key} that is not there")
        if not isinstance(items[index], dict):
            raise Malformed(f"holds one of its {key} that is no object")
        return items[index]

    def numbers(
        self, parent: dict[str, Any], key: str, count: int, default: tuple[float | int, ...]
    ) -> Float[np.ndarray, "count"]:
        """parent[key] as `count` finite numbers, float64."""
        values = parent.get(key, list(default))
        sound = isinstance(values, list) and len(values) == count
        sound = sound and all(isinstance(v, int | float) and abs(v) < 1e150 for v in values)
        if not sound:
            raise Malformed(f"holds {key!r} that is no list of {count} numbers")
        return np.array(values, np.float64)

    def accessor(self, index: Any, name: str, kind: str, types: str) -> Float[np.ndarray, "N width"]:
        """Reads the values of an accessor.

        Args:
            index: Number of the accessor, as the document gives it; None for a missing attribute.
            name: Attribute, for messages.
            kind: "SCALAR", "VEC3" or "VEC4".
            types: Allowed component types, letters of `struct`.

        Returns:
            [N, 1], [N, 3] or [N, 4] float32; normalised integers are divided by their largest value.
        """
        if index is None:
            raise Malformed(f"has gaussians without {name}")
        accessor = self.item("accessors", index)
        letter = _COMPONENTS.get(_index(accessor, "componentType"), "?")
        if accessor.get("type") != kind or letter not in types or "sparse" in accessor:
            raise Malformed(f"stores {name} in a way that is not read")
        view = self.item("bufferViews", accessor.get("bufferView", -1))
        buffer = self.item("buffers", view.get("buffer", -1))
        if view.get("buffer") != 0 or "uri" in buffer:
            raise Malformed(f"stores {name} outside of its binary chunk")
        dtype = np.dtype("<" + letter)
        width = _WIDTHS[kind] * dtype.itemsize
        count, inner = _index(accessor, "count"), _index(accessor, "byteOffset", 0)
        start, length = _index(view, "byteOffset", 0), _index(view, "byteLength")
        stride = _index(view, "byteStride", width)
        if not width <= stride <= 252:
            raise Malformed(f"has a stride of {stride} bytes for {name}")
        needed = inner + stride * (count - 1) + width if count else 0
        if needed > length or start + length > len(self._binary):
            raise Malformed(f"truncated: {name} needs {needed} bytes of {len(self._binary)}")
        raw = np.frombuffer(self._binary[start + inner : start + needed], np.uint8)
        rows = np.lib.stride_tricks.as_strided(raw, (count, width), (stride, 1), writeable=False)
        values = np.ascontiguousarray(rows).view(dtype).astype(np.float32)
        if letter != "f" and accessor.get("normalized") is True:
            values = np.maximum(values / np.float32(np.iinfo(dtype).max), -1.0)
        return values.reshape(count, _WIDTHS[kind])


def _chunk(data: bytes, offset: int) -> tuple[bytes, memoryview, int]:
    """Kind and content of the chunk at `offset`, and the offset of the next."""
    if offset + _CHUNK.size > len(data):
        raise Malformed("truncated: ends inside a chunk's header")
    size, kind = _CHUNK.unpack_from(data, offset)
    start = offset + _CHUNK.size
    if start + size > len(data):
        raise Malformed(f"truncated: a chunk of {size} bytes is announced, {len(data) - start} are left")
    return kind, memoryview(data)[start : start + size], start + size


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def _index(parent: dict[str, Any], key: str, default: int | None = None) -> int:
    """parent[key] as a number from 0 up."""
    value = parent.get(key, default)
    if not _is_index(value):
        raise Malformed(f"holds a {key} of {str(value)[:20]!r}, which is no count")
    return value
