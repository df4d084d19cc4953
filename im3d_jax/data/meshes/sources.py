"""Where meshes come from: a folder of files, or a pack."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import os
import pathlib
import re
from typing import Any

from im3d_jax.data.meshes.captions import caption_of_path, name_words
from im3d_jax.data.meshes.reading import SUFFIXES
from im3d_jax.errors import InputError


PACK_SUFFIX = ".meshpack"


@dataclasses.dataclass(frozen=True)
class Source:
    """One mesh to draw.

    Attributes:
        id: Names its files; letters, digits, `-` and `_`.
        name: Path relative to the folder, with `/`.
        caption: What it is.
        columns: What a table says besides.
        number: Its place in a pack; None for a file.
    """

    id: str
    name: str
    caption: str
    columns: dict[str, str]
    number: int | None = None


def object_id(name: str) -> str:
    """An id for a relative path: its words, and a hash, so that no two paths share one."""
    words = name_words(pathlib.PurePosixPath(name).stem) or ["object"]
    readable = re.sub(r"[^a-z0-9]+", "-", caption_of_path(name).encode("ascii", "ignore").decode()).strip("-")
    readable = readable or re.sub(r"[^a-z0-9]+", "-", words[0]).strip("-") or "object"
    return f"{readable[:40].strip('-')}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"


def find_meshes(
    folder: str | os.PathLike, table: dict[str, dict[str, str]], *, only: str | None = None, limit: int | None = None
) -> list[Source]:
    """Mesh files of a folder and the folders in it, sorted by path.

    Args:
        folder: Hidden files and folders are left out.
        table: Of `read_table`; files that it does not name get the caption of their path.
        only: A pattern with `*`, `?` and `[...]` for the relative path, or a part of it, whatever the case.
        limit: The first so many.

    Raises:
        InputError: The folder is missing or holds no such file.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(f"--meshes={folder}: no such folder; give a folder of GLB, glTF, OBJ, PLY or STL files")
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in files:
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                names.append(pathlib.Path(parent, file).relative_to(folder).as_posix())
    if not names:
        raise InputError(f"--meshes={folder} holds no meshes; expected files ending in {', '.join(SUFFIXES)}")
    sources = []
    for name in sorted(names):
        row: dict[str, str] = dict(table.get(name, {}))
        caption = row.pop("caption", "") or caption_of_path(name)
        sources.append(Source(object_id(name), name, caption, row))
    return select(sources, only, limit)


def select(sources: list[Source], only: str | None, limit: int | None) -> list[Source]:
    """Those that --only and --limit leave.

    Raises:
        InputError: None.
    """
    if only is not None:
        pattern = only if any(c in only for c in "*?[") else f"*{only}*"
        sources = [source for source in sources if fnmatch.fnmatchcase(source.name.lower(), pattern.lower())]
        if not sources:
            raise InputError(f"--only={only} matches no mesh; it is compared with paths relative to --meshes")
    return sources[:limit]


def packed_sources(entries: list[dict[str, Any]], *, only: str | None, limit: int | None) -> list[Source]:
    """The meshes of a pack, by its entries. Raises `InputError` where none is left."""
    sources = [
        Source(entry["id"], entry["source"], entry["caption"], dict(entry["columns"]), number)
        for number, entry in enumerate(entries)
    ]
    return select(sources, only, limit)
