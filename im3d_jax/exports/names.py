"""Names of exported files: endings of the formats of gaussians, and names without them."""

from __future__ import annotations

import pathlib
from typing import Any


# Kind: ending of its files, and how `splat.io` writes it.
GAUSSIANS: dict[str, tuple[str, dict[str, Any]]] = {
    "ply": (".ply", {}),
    "ply-lean": (".lean.ply", {"lean": True}),
    "compressed-ply": (".compressed.ply", {"compressed": True}),
    "spz": (".spz", {"version": 3}),
    "spz4": (".v4.spz", {"version": 4}),
    "sog": (".sog", {}),
    "splat": (".splat", {}),
    "glb": (".glb", {}),
}
_LONGEST_FIRST = sorted((ending for ending, _ in GAUSSIANS.values()), key=len, reverse=True)


def name_of(path: pathlib.Path) -> str:
    """The name of a run folder; that of a file without the ending of its format."""
    name = path.name
    if path.is_dir():
        return name
    for ending in (*_LONGEST_FIRST, path.suffix):
        if ending and name.lower().endswith(ending.lower()) and name[: -len(ending)]:
            return name[: -len(ending)]
    return name
