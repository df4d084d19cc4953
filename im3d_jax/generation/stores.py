"""How results of stages are kept: the files of a run folder, and the same rounding without files."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from im3d_jax.data.camera_files import decode_cameras, elevation_of, encode_cameras, read_fields
from im3d_jax.errors import input_errors
from im3d_jax.images.files import as_stored, encode_png, read_image, read_images
from im3d_jax.output.records import to_json
from im3d_jax.output.run_folder import RunFolder, StageFiles
from im3d_jax.pipelines import Orbit
from im3d_jax.reconstruction import FitConfig, FitState, load_state, save_state
from splat import Gaussians
from splat.io import NonFinite, load_ply, save_ply


@dataclasses.dataclass(frozen=True)
class PictureFile:
    """A picture [H, W, 4] as a PNG file."""

    name: str
    noted: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def write(self, value: np.ndarray, files: StageFiles) -> None:
        """See `Store`."""
        files.write(self.name, encode_png(value))

    def read(self, folder: RunFolder) -> np.ndarray:
        """See `Store`."""
        return read_image(folder / self.name)

    def stored(self, value: np.ndarray) -> np.ndarray:
        """See `Store`."""
        return as_stored(value)


@dataclasses.dataclass(frozen=True)
class ViewFiles:
    """Views [T, H, W, 4] as PNG files of one folder."""

    folder: str
    count: int
    noted: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Paths in the run folder."""
        return [f"{self.folder}/{index:02d}.png" for index in range(self.count)]

    def write(self, value: np.ndarray, files: StageFiles) -> None:
        """See `Store`."""
        with ThreadPoolExecutor() as pool:
            for name, content in zip(self.names, pool.map(encode_png, value), strict=True):
                files.write(name, content)

    def read(self, folder: RunFolder) -> np.ndarray:
        """See `Store`."""
        return read_images([folder / name for name in self.names])

    def stored(self, value: np.ndarray) -> np.ndarray:
        """See `Store`."""
        return as_stored(value)


@dataclasses.dataclass(frozen=True)
class OrbitFiles:
    """The cameras of views as ``cameras.json``, and how they were found as ``state/orbit.json``.

    Attributes:
        file_paths: Of the views, relative to the folder.
        family: Of the model that drew them.
    """

    file_paths: Sequence[str]
    family: str
    noted: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"orbit": "state/orbit.json"})

    def _encode(self, value: Orbit) -> bytes:
        more = {"family": self.family, "orbit_direction": str(value.facts["direction"])}
        return encode_cameras(value.cameras, self.file_paths, value.elevation, **more)

    def write(self, value: Orbit, files: StageFiles) -> None:
        """See `Store`."""
        files.write("cameras.json", self._encode(value))
        files.write("state/orbit.json", to_json(dict(value.facts)))

    def read(self, folder: RunFolder) -> Orbit:
        """See `Store`."""
        facts = json.loads((folder / "state/orbit.json").read_bytes())
        return _decode(folder / "cameras.json", None, facts)

    def stored(self, value: Orbit) -> Orbit:
        """See `Store`: poses go through camera-to-world matrices and back."""
        return _decode(pathlib.Path("cameras.json"), self._encode(value), value.facts)


def _decode(path: pathlib.Path, text: bytes | None, facts: Mapping) -> Orbit:
    fields = read_fields(path, text)
    return Orbit(decode_cameras(fields, path), elevation_of(fields, path) or 0.0, facts)


@dataclasses.dataclass(frozen=True)
class FitFile:
    """The state of a fit as an npz file, every number of it."""

    name: str
    config: FitConfig
    noted: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def write(self, value: FitState, files: StageFiles) -> None:
        """See `Store`."""
        files.save(self.name, lambda path: save_state(path, value))

    def read(self, folder: RunFolder) -> FitState:
        """See `Store`."""
        return load_state(folder / self.name, self.config)

    def stored(self, value: FitState) -> FitState:
        """See `Store`."""
        return value


@dataclasses.dataclass(frozen=True)
class AssetFile:
    """Gaussians as a PLY file.

    Attributes:
        origin: Place of their origin in the world of the capture, which the file is in.
    """

    name: str = "asset.ply"
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    noted: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def write(self, value: Gaussians, files: StageFiles) -> None:
        """See `Store`."""
        with input_errors(NonFinite):
            files.save(self.name, lambda path: save_ply(path, value, origin=self.origin))

    def read(self, folder: RunFolder) -> Gaussians:
        """See `Store`."""
        return load_ply(folder / self.name, origin=self.origin)

    def stored(self, value: Gaussians) -> Gaussians:
        """See `Store`."""
        return value


@dataclasses.dataclass(frozen=True)
class OtherFiles:
    """Files that no later stage reads, {name: content}.

    Attributes:
        volatile: Names of files that differ between equal runs, because they hold seconds.
    """

    volatile: frozenset[str] = frozenset()
    noted: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def write(self, value: Mapping[str, bytes], files: StageFiles) -> None:
        """See `Store`."""
        for name, content in value.items():
            files.write(name, content, volatile=name in self.volatile)

    def read(self, folder: RunFolder) -> Mapping[str, bytes]:
        """Nothing: their names are the work's to choose."""
        return {}

    def stored(self, value: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """See `Store`."""
        return value
