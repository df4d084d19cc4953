"""Captions of meshes: from a table, or from file names with all that does not name the object taken off."""

from __future__ import annotations

import os
import pathlib
import re

from im3d_jax.errors import InputError


# Stems that name the file, not the object: the folder's name is read instead.
_GENERIC = frozenset(
    "asset assets data export exported file files geometry gltf mesh meshes model models obj object objects out output "
    "scene source textured untitled".split()
)
# Words that say how, when or by whom a model was made.
_JUNK = frozenset(
    "asset blend blender collision compressed copy decimated draco export exported fbx final geo geometry glb "
    "version gltf grp highpoly hipoly kaykit kenney lod lowpoly lp hp material mdl mesh model obj optimized polyhaven "
    "prefab prefabs prop props quaternius remastered rig rigged skm sm static textured tex transformed uv".split()
)
_PREFIXES = frozenset("env geo obj p pf prop sk skm sm str".split())  # dropped in front only
_VERSION = re.compile(r"v\d+|lod\d*|\d+k|[a-z]?\d+|\d+[a-z]|x\d+")
_HASH = re.compile(r"(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}")
_LONGEST = 200
_MOST_BYTES = 1 << 28  # devices such as /dev/zero never end


def caption_of_path(path: str | os.PathLike) -> str:
    """The caption of a mesh without a table: of its file's name, or its folder's where the file is `model` or `scene`.

    Underscores, CamelCase, numbers, versions, single letters at the end, and words such as `lowpoly`, `final` or
    `prefab` go: `barrel_A_02.glb` is "barrel", `SM_WoodenCrate_v2.obj` is "wooden crate".

    Args:
        path: Relative to the data's folder; of it, names of parent folders are used where needed.

    Returns:
        Lower case words; "object" where nothing is left.
    """
    path = pathlib.PurePath(path)
    for name in (path.stem, *(part for part in reversed(path.parts[:-1]))):
        words = name_words(name)
        if words and not all(word in _GENERIC for word in words):
            return " ".join(words)
    return "object"


def name_words(name: str) -> list[str]:
    """The words of a file's name that name the object, in lower case."""
    text = re.sub(r"%20|[_\-.+,;()\[\]{}&#@~=]+", " ", name)
    text = re.sub(r"(?i)\b(low|high|hi) ?poly\b", " ", text)
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)  # CamelCase, HTTPServer
    text = re.sub(r"(?<=[a-z]{2})(?=\d)", " ", text)  # tree2, but not v2
    words = text.split()
    while len(words) > 1 and words[0].lower() in _PREFIXES:
        words = words[1:]
    words = [word for word in words if not (_VERSION.fullmatch(word.lower()) or _HASH.fullmatch(word.lower()))]
    # A letter counts the variants, except for an article inside of a name.
    words = [
        word.lower()
        for i, word in enumerate(words)
        if len(word) > 1 or (word == "a" and 0 < i < len(words) - 1) or not word.isascii()
    ]
    return _without_repeats([word for word in words if word not in _JUNK])


def tidy(caption: str) -> str:
    """A caption of a table: single blanks, no control characters, no word twice in a row, no full stop."""
    text = "".join(c if c.isprintable() else " " for c in caption).replace("_", " ")
    words = [word for word in text.split() if word.lower() not in ("transformed",)]
    return " ".join(_without_repeats(words)).strip(" .,;:")[:_LONGEST].strip()


def _without_repeats(words: list[str]) -> list[str]:
    return [word for i, word in enumerate(words) if i == 0 or word.lower() != words[i - 1].lower()]


def read_table(path: str | os.PathLike) -> dict[str, dict[str, str]]:
    """A table of captions: tab-separated, the first line names the columns.

    Args:
        path: Columns `path` (relative to the data's folder, `/` between folders) and `caption`, and any others.

    Returns:
        By path, the row: `caption`, tidied (empty where the cell is), and the other columns but `path` as they are.

    Raises:
        InputError: The file cannot be read, lacks a column, or names a path twice.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise InputError(f"table {path}: more than {_MOST_BYTES >> 20} MiB; split it")
        text = content.decode("utf-8-sig")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"table {path} cannot be read ({reason})") from None
    header, *lines = ([cell.strip() for cell in line.split("\t")] for line in text.replace("\r\n", "\n").split("\n"))
    if not {"path", "caption"} <= set(header):
        raise InputError(f"table {path} has the columns {header}; expected at least path and caption, tab-separated")
    rows: dict[str, dict[str, str]] = {}
    for number, cells in enumerate(lines, 2):
        if cells == [""]:
            continue
        row = dict(zip(header, cells, strict=False))
        name = row.pop("path", "")
        if not name or name in rows:
            raise InputError(f"table {path}, line {number}: {f'{name} comes twice' if name else 'no path'}")
        rows[name] = {**row, "caption": tidy(row.get("caption", ""))}
    return rows
