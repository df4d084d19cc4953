"""Reads folders of rendered turntables, as `im3d render-dataset` writes them (`im3d_jax.data.meshes.dataset`)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from im3d_jax.data.turntable import Turntable
from im3d_jax.errors import InputError


FORMAT = 1


class TurntableError(InputError):
    """A folder of turntables, or one of them, that cannot be used."""


class TurntableFolder:
    """Turntables of a folder, by number, in the order of its index; a `TurntableSet`.

    Opening reads the index alone. A picture is checked against it, size and SHA-256, when it is asked for.

    Args:
        path: The folder, with `settings.json`, `index.jsonl` and `objects`.
        verify: Whether to compare hashes; sizes are compared always.

    Attributes:
        settings: How the folder was rendered.
        entries: The index: one dictionary per object, with `caption`, `source` and what the table of captions gave.

    Raises:
        TurntableError: The folder is missing, empty, or of another format.
    """

    def __init__(self, path: str | os.PathLike, *, verify: bool = True):
        self.path = pathlib.Path(path)
        self._verify = verify
        self.settings = _settings(self.path)
        self.frames, self.size = self.settings["views"], self.settings["size"]
        self.entries = read_index(self.path / "index.jsonl")
        if not self.entries:
            raise TurntableError(f"{self.path} holds no turntables; render some with im3d render-dataset")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Turntable:
        if not 0 <= index < len(self.entries):
            raise IndexError(f"turntable {index} of {len(self.entries)}")
        entry = self.entries[index]
        angles = [np.radians(np.asarray(entry[name], np.float64)) for name in ("elevation_deg", "azimuth_deg")]
        if any(values.shape != (self.frames,) for values in angles):
            raise TurntableError(f"{self.path / 'index.jsonl'}: {entry['id']} has not {self.frames} angles")
        return Turntable(
            rgba=self._picture(entry),
            caption=entry["caption"],
            elevations=angles[0].astype(np.float32),
            azimuths=angles[1].astype(np.float32),
            key=entry["id"],
        )

    def _picture(self, entry: dict[str, Any]) -> np.ndarray:
        """[F, size, size, 4] uint8."""
        path = self.path / "objects" / f"{entry['id']}.png"
        again = "render it again: remove its line from index.jsonl and repeat im3d render-dataset"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise TurntableError(f"turntable {path} cannot be read ({error.strerror or error}); {again}") from None
        if self._verify and hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise TurntableError(f"turntable {path} has changed or is damaged (SHA-256 differs); {again}")
        try:
            picture = Image.open(io.BytesIO(content), formats=("PNG",))
            expected = (self.size, self.size * self.frames)
            if picture.size != expected or picture.mode != "RGBA":
                found = f"{picture.width}x{picture.height} {picture.mode}"
                raise TurntableError(f"turntable {path} is {found}, expected {expected[0]}x{expected[1]} RGBA; {again}")
            pixels = np.asarray(picture)
        except TurntableError:
            raise
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise TurntableError(f"turntable {path} is damaged ({error}); {again}") from None
        return pixels.reshape(self.frames, self.size, self.size, 4)


def _settings(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_dir():
        raise TurntableError(f"no folder of turntables at {path}; render one with im3d render-dataset")
    try:
        settings = json.loads((path / "settings.json").read_text("utf-8"))
        if settings["format"] != FORMAT:
            raise TurntableError(f"{path} has turntables of format {settings['format']}; this program reads {FORMAT}")
        if not all(isinstance(settings[name], int) and settings[name] > 0 for name in ("views", "size")):
            raise ValueError("views and size are no numbers")
    except TurntableError:
        raise
    except OSError as error:
        raise TurntableError(f"{path} is no folder of turntables: settings.json ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise TurntableError(f"{path / 'settings.json'} is damaged ({error})") from None
    return settings


def read_index(path: pathlib.Path) -> list[dict[str, Any]]:
    """Entries of an index; empty without the file. An unfinished last line, left by a crash, is left out.

    Raises:
        TurntableError: Another line is damaged, or an id comes twice.
    """
    try:
        content = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise TurntableError(f"{path} cannot be read ({error})") from None
    lines = content.split("\n")
    entries: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line end is unfinished
        try:
            entry = json.loads(line)
            wanted = {
                "id": str,
                "caption": str,
                "source": str,
                "sha256": str,
                "elevation_deg": list,
                "azimuth_deg": list,
            }
            wrong = [name for name, kind in wanted.items() if not isinstance(entry[name], kind)]
            if wrong or not _is_plain(entry["id"]):
                raise ValueError(f"its {wrong[0] if wrong else 'id'} is not what it should be")
        except (ValueError, KeyError, TypeError) as error:
            raise TurntableError(f"{path}, line {number} is damaged ({error}); remove it and render again") from None
        if entry["id"] in entries:
            raise TurntableError(f"{path}, line {number}: {entry['id']} comes twice; remove the line")
        entries[entry["id"]] = entry
    return list(entries.values())


def _is_plain(name: str) -> bool:
    """Whether an id names a file in the folder of pictures, and nothing elsewhere."""
    return bool(name) and not name.startswith(".") and not {"/", "\\", "\0"} & set(name)
