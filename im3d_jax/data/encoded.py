"""Turntables as a video network sees them, computed once: one safetensors file for each example.

    settings.json        what they were encoded with: model by its SHA-256, frames, side
    index.jsonl          one line an example: file, key, caption
    examples/00000.safetensors ...

Encoding a video takes as long as a training step of the network that eats it.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from im3d_jax.atomic import replacing, write_whole
from im3d_jax.digests import file_hash
from im3d_jax.errors import InputError


SETTINGS, INDEX, EXAMPLES = "settings.json", "index.jsonl", "examples"


class EncodedFolder:
    """An `ExampleSource` over a folder that `EncodedWriter` wrote.

    Args:
        path: The folder.

    Attributes:
        settings: What the examples were encoded with.

    Raises:
        InputError: No such folder, or a damaged index.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        try:
            self.settings: dict[str, Any] = json.loads((self.path / SETTINGS).read_bytes())
            lines = (self.path / INDEX).read_text().splitlines()
            self._files = [self.path / json.loads(line)["file"] for line in lines]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} holds no encoded turntables ({error}); make them with python -m experiments.encode"
            ) from None

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Arrays of one example.

        Raises:
            InputError: Its file is missing or damaged.
        """
        file = self._files[index]
        try:
            return safetensors.numpy.load_file(file)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{file} is missing or damaged ({error}); encode the turntables again") from None

    def identity(self) -> dict[str, Any]:
        """What tells this data from others: settings, and the index by its SHA-256."""
        return {**self.settings, "examples": len(self), "index_sha256": file_hash(self.path / INDEX)}


class RandomExamples:
    """An `ExampleSource` of noise in the shapes of encoded turntables, to measure a step without data.

    Args:
        shapes: {name: shape of one example}.
        count: How many examples there are.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], count: int = 64):
        self._shapes, self._count = dict(shapes), count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Arrays of one example, float16."""
        rng = np.random.default_rng(index)
        return {name: rng.standard_normal(shape, np.float32).astype(np.float16) for name, shape in self._shapes.items()}

    def identity(self) -> dict[str, Any]:
        """What tells this data from others."""
        return {"random": {name: list(shape) for name, shape in self._shapes.items()}, "examples": self._count}


class EncodedWriter:
    """Writes a folder of encoded turntables; examples that are there are kept.

    Args:
        path: The folder; made if absent.
        settings: What the examples are encoded with; a folder of others is refused.

    Raises:
        InputError: The folder holds examples of other settings.
    """

    def __init__(self, path: str | os.PathLike, settings: Mapping[str, Any]):
        self.path = pathlib.Path(path)
        (self.path / EXAMPLES).mkdir(parents=True, exist_ok=True)
        file = self.path / SETTINGS
        wanted = json.loads(json.dumps(dict(settings)))
        if file.is_file() and _read_settings(file) != wanted:
            raise InputError(f"{self.path} holds turntables of other settings; take a new folder")
        write_whole(file, json.dumps(wanted, indent=1) + "\n")
        self._lines: list[str] = []

    def name(self, number: int) -> str:
        """File of an example, relative to the folder."""
        return f"{EXAMPLES}/{number:05d}.safetensors"

    def has(self, number: int) -> bool:
        """Whether an example is there, whole."""
        return (self.path / self.name(number)).is_file()

    def add(self, number: int, key: str, caption: str, arrays: Mapping[str, np.ndarray] | None) -> None:
        """Writes an example (None: it is there already) and notes it for the index."""
        if arrays is not None:
            path = self.path / self.name(number)
            with replacing(path) as partial:
                safetensors.numpy.save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, partial)
        self._lines.append(json.dumps({"file": self.name(number), "key": key, "caption": caption}))

    def finish(self) -> None:
        """Writes the index: from here on the folder is whole."""
        write_whole(self.path / INDEX, "".join(line + "\n" for line in self._lines))


def _read_settings(file: pathlib.Path) -> Any:
    """Of a folder that is written to; None where they are damaged, which no settings equal."""
    try:
        return json.loads(file.read_bytes())
    except ValueError:
        return None
