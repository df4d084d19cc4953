"""Packs: many placed meshes in one file that needs neither their assets nor their readers to be drawn.

Layout: 8 bytes of magic, blobs (pictures as PNG, JPEG or WebP; objects compressed by LZMA), the index (JSON compressed
by zlib), and a tail of 24 bytes: the index's offset, compressed and plain lengths, as little-endian uint64 numbers.
The index holds a version, the pictures (offset, length, wrap, nearest) and the objects (id, source, caption, columns,
notes, offset, length, materials, layouts of parts). Pictures that meshes share are kept once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import lzma
import os
import pathlib
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from im3d_jax.atomic import replacing
from im3d_jax.data.meshes import textures
from im3d_jax.data.meshes.model import Limits, Material, Mesh, MeshError, Texture
from im3d_jax.data.meshes.packing import encode_picture, pack_part, packed_size, unpack_part
from im3d_jax.data.meshes.sources import Source
from im3d_jax.errors import InputError


VERSION = 1
TEXTURE_SIDE = 512  # twice the side of the pictures to draw
_MAGIC, _TAIL = b"IM3DMESH", struct.Struct("<QQQ")
_INDEX_BYTES = 1 << 30
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6}]


def write_pack(path: str | os.PathLike, meshes: Iterable[tuple[Source, Mesh]]) -> int:
    """Writes a pack, atomically.

    Args:
        path: The file.
        meshes: Placed meshes; consumed one by one.

    Returns:
        Objects written.

    Raises:
        InputError: The file cannot be written.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("wb") as file:
            count = _Writer(file).write(meshes)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error}); make room or choose another path") from None
    return count


class _Writer:
    def __init__(self, file: Any):
        self._file = file
        self._pictures: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}
        self._blobs: dict[str, tuple[int, int]] = {}

    def write(self, meshes: Iterable[tuple[Source, Mesh]]) -> int:
        self._file.write(_MAGIC)
        objects = [self._object(source, mesh) for source, mesh in meshes]
        plain = json.dumps({"version": VERSION, "pictures": self._pictures, "objects": objects}).encode()
        packed = zlib.compress(plain, 9)
        offset = self._file.tell()
        self._file.write(packed)
        self._file.write(_TAIL.pack(offset, len(packed), len(plain)))
        return len(objects)

    def _object(self, source: Source, mesh: Mesh) -> dict[str, Any]:
        materials: dict[int, int] = {}
        records, layouts, content = [], [], []
        for part in mesh.parts:
            if id(part.material) not in materials:
                materials[id(part.material)] = len(records)
                records.append(self._material(part.material))
            layout, data = pack_part(part, materials[id(part.material)])
            layouts.append(layout)
            content.append(data)
        offset, length = self._blob(lzma.compress(b"".join(content), lzma.FORMAT_RAW, filters=_FILTERS))
        return {
            "id": source.id,
            "source": source.name,
            "caption": source.caption,
            "columns": source.columns,
            "notes": list(mesh.notes),
            "offset": offset,
            "length": length,
            "materials": records,
            "parts": layouts,
        }

    def _material(self, material: Material) -> dict[str, Any]:
        record = {
            field.name: getattr(material, field.name)
            for field in dataclasses.fields(material)
            if field.name not in ("texture", "emission_texture")
        }
        pictures = {name: self._picture(getattr(material, name)) for name in ("texture", "emission_texture")}
        return {**record, **pictures}

    def _picture(self, texture: Texture | None) -> int | None:
        if texture is None:
            return None
        pixels = textures.shrink_pixels(texture.pixels, TEXTURE_SIDE, nearest=texture.nearest)
        content = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        key = f"{content} {texture.wrap} {texture.nearest}"
        if key not in self._numbers:
            if content not in self._blobs:
                self._blobs[content] = self._blob(encode_picture(pixels))
            offset, length = self._blobs[content]
            self._numbers[key] = len(self._pictures)
            self._pictures.append(
                {"offset": offset, "length": length, "wrap": texture.wrap, "nearest": texture.nearest}
            )
        return self._numbers[key]

    def _blob(self, content: bytes) -> tuple[int, int]:
        offset = self._file.tell()
        self._file.write(content)
        return offset, len(content)


class MeshPack:
    """Reads a pack.

    Args:
        path: The file.
        limits: What an object may ask for; checked by the index, before memory is taken.

    Attributes:
        entries: The index's objects: `id`, `source`, `caption`, `columns` and where they are.

    Raises:
        InputError: The file is missing, no pack, damaged or of another version.
    """

    def __init__(self, path: str | os.PathLike, limits: Limits | None = None):
        self._path, self._limits = pathlib.Path(path), Limits() if limits is None else limits
        self._textures: dict[int, Texture] = {}
        try:
            index = self._index()
            self.entries: list[dict[str, Any]] = index["objects"]
            self._pictures: list[dict[str, Any]] = index["pictures"]
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"pack {path} cannot be read ({error.strerror or error})") from None
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise InputError(f"pack {path} is damaged ({error}); write it again") from None

    def _index(self) -> dict[str, Any]:
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise InputError(f"{self._path} is no pack of meshes; write one with im3d render-dataset --pack")
            if size < len(_MAGIC) + _TAIL.size:
                raise ValueError("it is truncated")
            file.seek(size - _TAIL.size)
            offset, packed, plain = _TAIL.unpack(file.read(_TAIL.size))
            if offset + packed + _TAIL.size != size or plain > _INDEX_BYTES:
                raise ValueError("its index is not where it should be; it may be truncated")
            file.seek(offset)
            inflater = zlib.decompressobj()
            text = inflater.decompress(file.read(packed), plain + 1)
        if len(text) != plain:
            raise ValueError("its index has another length than announced")
        index = json.loads(text)
        if index["version"] != VERSION:
            raise InputError(f"pack {self._path} is of version {index['version']}; this program reads {VERSION}")
        return index

    def __len__(self) -> int:
        return len(self.entries)

    def mesh(self, number: int) -> Mesh:
        """Object `number`.

        Raises:
            MeshError: It is damaged or too large.
        """
        entry = self.entries[number]
        try:
            return self._mesh(entry)
        except MeshError:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, lzma.LZMAError) as error:
            raise MeshError(f"is damaged in its pack ({type(error).__name__}: {error})") from None

    def _mesh(self, entry: dict[str, Any]) -> Mesh:
        layouts = entry["parts"]
        for name, most in (("triangles", self._limits.triangles), ("vertices", self._limits.vertices)):
            counts = [layout[name] for layout in layouts]
            if min(counts, default=0) < 0 or sum(counts) > most:
                raise MeshError(f"has {sum(counts)} {name}; at most {most} are read")
        sizes = [packed_size(layout) for layout in layouts]
        content = self._inflate(self._read(entry), sum(sizes))
        materials = [self._material(record) for record in entry["materials"]]
        parts, offset = [], 0
        for layout, size in zip(layouts, sizes, strict=True):
            parts.append(unpack_part(layout, content[offset : offset + size], materials[layout["material"]]))
            offset += size
        return Mesh(tuple(parts), tuple(entry["notes"]))

    def _inflate(self, content: bytes, size: int) -> memoryview:
        inflater = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
        plain = inflater.decompress(content, size + 1)
        if len(plain) != size:
            raise MeshError("is damaged: its arrays have another length than its index announces")
        return memoryview(plain)

    def _read(self, place: dict[str, Any]) -> bytes:
        if place["length"] > self._limits.file_bytes:
            raise MeshError(f"has {place['length']} compressed bytes; at most {self._limits.file_bytes} are read")
        with self._path.open("rb") as file:
            file.seek(place["offset"])
            return file.read(place["length"])

    def _material(self, record: dict[str, Any]) -> Material:
        pictures = {name: self._texture(record[name]) for name in ("texture", "emission_texture")}
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
        return Material(**{**plain, **pictures})

    def _texture(self, number: int | None) -> Texture | None:
        if number is None:
            return None
        if number not in self._textures:
            if len(self._textures) >= 64:  # meshes of one kit follow each other
                self._textures.clear()
            place = self._pictures[number]
            pixels = textures.decode(self._read(place), f"{number} of the pack", self._limits, alpha=None)
            first, second = place["wrap"]
            self._textures[number] = Texture(np.asarray(pixels), (first, second), place["nearest"])
        return self._textures[number]
