"""Reads Wavefront OBJ with its material library: sRGB colours and pictures, polygons, vertex colours."""

from __future__ import annotations

import dataclasses
import os
import re

import numpy as np

from im3d_jax.data.meshes import textures
from im3d_jax.data.meshes.files import Files
from im3d_jax.data.meshes.model import PLAIN, Limits, Material, Mesh, MeshError, Part, Texture, to_linear


# Numbers that follow an option of a map_ line.
_MAP_OPTIONS = {"-blendu": 1, "-blendv": 1, "-bm": 1, "-boost": 1, "-cc": 1, "-clamp": 1, "-imfchan": 1, "-mm": 2}
_MAP_OPTIONS |= {"-o": 3, "-s": 3, "-t": 3, "-texres": 1}


def read_obj(files: Files, limits: Limits) -> Mesh:
    """Reads an OBJ file in its own axes.

    Without a material library that can be found, the only picture in the folder is the texture; without either, the
    mesh is grey.

    Raises:
        MeshError: It is damaged, too large, empty, or names a texture that is missing.
    """
    content = files.main()
    if content.count(b"\nf ") > limits.triangles:
        raise MeshError(f"has more than {limits.triangles} triangles; simplify it first")
    if content.count(b"\nv ") > limits.vertices:
        raise MeshError(f"has more than {limits.vertices} vertices; simplify it first")
    try:
        table = _parse(content.decode("utf-8", "replace"), limits)
        return _assemble(table, files, limits)
    except MeshError:
        raise
    except (ValueError, IndexError, OverflowError) as error:
        raise MeshError(f"is damaged ({error})") from None


@dataclasses.dataclass
class _Table:
    """What the lines say; corners are (position, uv, normal), counted from 1, 0 for none."""

    positions: list[list[float]] = dataclasses.field(default_factory=list)
    uv: list[list[float]] = dataclasses.field(default_factory=list)
    normals: list[list[float]] = dataclasses.field(default_factory=list)
    corners: dict[str, list[tuple[int, int, int]]] = dataclasses.field(default_factory=dict)
    libraries: list[str] = dataclasses.field(default_factory=list)


def _parse(text: str, limits: Limits) -> _Table:
    table, material, spent = _Table(), "", 0
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words:
            continue
        head = words[0]
        if head == "v":
            table.positions.append([float(word) for word in words[1:7]])
        elif head == "vt":
            table.uv.append([float(word) for word in (words[1:3] if len(words) > 2 else [words[1], "0"])])
        elif head == "vn":
            table.normals.append([float(word) for word in words[1:4]])
        elif head == "f":
            counts = len(table.positions), len(table.uv), len(table.normals)
            polygon = [_corner(word, counts) for word in words[1:]]
            spent += max(0, len(polygon) - 2)
            if spent > limits.triangles:
                raise MeshError(f"has more than {limits.triangles} triangles; simplify it first")
            triangles = table.corners.setdefault(material, [])
            for i in range(1, len(polygon) - 1):
                triangles += polygon[0], polygon[i], polygon[i + 1]
        elif head == "usemtl":
            material = line.strip()[6:].strip()
        elif head == "mtllib":
            table.libraries.append(line.strip()[6:].strip())
    return table


def _corner(word: str, counts: tuple[int, int, int]) -> tuple[int, int, int]:
    """One of `1`, `1/2`, `1//3`, `1/2/3`; negative numbers count from the end."""
    numbers = [int(part) if part else 0 for part in word.split("/")]
    numbers += [0] * (3 - len(numbers))
    a, b, c = (n + 1 + count if n < 0 else n for n, count in zip(numbers, counts, strict=False))
    if not (0 < a <= counts[0] and 0 <= b <= counts[1] and 0 <= c <= counts[2]):
        raise MeshError(f"is damaged: a face names {word}, which is not there")
    return a, b, c


def _assemble(table: _Table, files: Files, limits: Limits) -> Mesh:
    notes: list[str] = []
    materials = _libraries(table.libraries, files, limits, notes)
    fallback = PLAIN
    if not materials and table.uv:
        pictures = files.pictures_beside()
        if len(pictures) == 1:
            notes.append(f"no material library: {pictures[0]} beside it is taken for the texture")
            pixels = textures.decode(files.reference(pictures[0]), pictures[0], limits, alpha=False)
            fallback = Material(texture=Texture(pixels))
    lengths = {len(row) for row in table.positions}
    if lengths - {3, 4, 6}:
        raise MeshError("is damaged: vertices of fewer than three numbers")
    positions = np.array([row[:3] for row in table.positions], np.float32).reshape(-1, 3)
    colours = None
    if lengths == {6}:
        rgb = np.array([row[3:6] for row in table.positions], np.float32)
        rgb = np.clip(rgb / 255.0 if rgb.max(initial=0.0) > 1.0 else rgb, 0.0, 1.0)
        colours = np.concatenate([to_linear(rgb), np.ones((len(rgb), 1), np.float32)], -1)
    uv = np.array(table.uv, np.float32).reshape(-1, 2) * (1.0, -1.0) + (0.0, 1.0)
    normals = np.array(table.normals, np.float32).reshape(-1, 3)
    parts = []
    for name, corners in table.corners.items():
        material = materials.get(name, fallback)
        rows, triangles = _unique_corners(np.array(corners, np.int64).reshape(-1, 3))
        has_uv, has_normals = (bool((rows[:, i] > 0).all()) for i in (1, 2))
        if material.texture is not None and not has_uv:
            notes.append(f"material {name or 'without a name'} has a texture, but its faces have no coordinates")
            material = dataclasses.replace(material, texture=None)
        parts.append(
            Part(
                positions[rows[:, 0] - 1],
                triangles,
                material,
                normals[rows[:, 2] - 1] if has_normals else None,
                uv[rows[:, 1] - 1].astype(np.float32) if material.texture is not None else None,
                None if colours is None else colours[rows[:, 0] - 1],
            )
        )
    return Mesh(tuple(parts), tuple(dict.fromkeys(notes)))


def _unique_corners(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners [3 T, 3] as (different ones [V, 3], triangles [T, 3] uint32)."""
    pairs = corners[:, 0] * (corners[:, 1].max(initial=0) + 1) + corners[:, 1]
    _, pair = np.unique(pairs, return_inverse=True)
    _, first, inverse = np.unique(
        pair * (corners[:, 2].max(initial=0) + 1) + corners[:, 2], return_index=True, return_inverse=True
    )
    return corners[first], inverse.reshape(-1, 3).astype(np.uint32)


def _libraries(names: list[str], files: Files, limits: Limits, notes: list[str]) -> dict[str, Material]:
    materials: dict[str, Material] = {}
    for name in names:
        # A name with blanks, or several names.
        candidates = [name] if files.exists(name) else name.split()
        for candidate in candidates:
            if not files.exists(candidate):
                notes.append(f"{candidate} is missing")
                continue
            text = files.reference(candidate).decode("utf-8", "replace")
            materials |= _parse_library(text, os.path.dirname(candidate), files, limits, notes)
    return materials


def _parse_library(text: str, folder: str, files: Files, limits: Limits, notes: list[str]) -> dict[str, Material]:
    entries: dict[str, dict[str, str]] = {}
    entry: dict[str, str] = {}
    for line in text.splitlines():
        head, _, rest = line.strip().partition(" ")
        head, _, more = head.partition("\t")
        rest = (more + " " + rest).strip()
        if head == "newmtl":
            entry = entries.setdefault(rest, {})
        elif rest:
            entry[head.lower()] = rest
    pictures: dict[str, Texture] = {}
    return {name: _material(entry, folder, files, limits, notes, pictures) for name, entry in entries.items()}


def _material(
    entry: dict[str, str], folder: str, files: Files, limits: Limits, notes: list[str], pictures: dict[str, Texture]
) -> Material:
    picture = _map_name(entry["map_kd"]) if "map_kd" in entry else None
    colour = [min(max(float(word), 0.0), 1.0) for word in entry.get("kd", "0.8 0.8 0.8").split()[:3]]
    colour = colour * 3 if len(colour) == 1 else colour
    if picture is not None and not any(colour):  # exporters leave black where the picture says it all
        colour = [1.0, 1.0, 1.0]
    opacity = float(entry.get("d", "1").split()[-1])
    # Tr is left alone: some writers mean opacity by it, others transparency.
    opacity = opacity if 0.0 < opacity < 1.0 else 1.0
    holes = picture is not None and "map_d" in entry and _map_name(entry["map_d"]) == picture
    if "map_d" in entry and not holes:
        notes.append("map_d left out")
    texture = None
    if picture is not None:
        key = f"{picture}\n{holes}"
        if key not in pictures:
            content = files.reference(os.path.join(folder, picture))
            pictures[key] = Texture(textures.decode(content, picture, limits, alpha=holes))
        texture = pictures[key]
    r, g, b = (float(value) for value in to_linear(np.array(colour)))
    return Material((r, g, b, opacity), texture, "blend" if opacity < 1.0 else "mask" if holes else "opaque")


def _map_name(value: str) -> str:
    """The file name of a map_ line, its options taken off."""
    words = re.split(r"(\s+)", value)
    at = 0
    while at < len(words) and words[at] in _MAP_OPTIONS:
        at += 2 + 2 * _MAP_OPTIONS[words[at]]
    return "".join(words[at:]).strip()
