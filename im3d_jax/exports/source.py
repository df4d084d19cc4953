"""Opens the source of an export: a run folder, or a file of gaussians of any program."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from typing import Any

import numpy as np

from im3d_jax.data.capture import Capture
from im3d_jax.data.captures import load_capture
from im3d_jax.errors import InputError, input_errors
from im3d_jax.images.files import read_images
from im3d_jax.output.records import read_object
from im3d_jax.output.run_files import RUN_FILE
from splat.io.files import Rows, usable_rows
from splat.io.formats import SUFFIXES, load_rows


ASSET_FILE, METRICS_FILE = "asset.ply", "metrics.json"
_ROUND = re.compile(r"views_round(\d)")


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Gaussians, and what is known about them.

    Attributes:
        path: The run folder or file.
        rows: The gaussians that can be drawn, at least one.
        left_out: How many others the file holds.
        up: Direction that is up in their world.
        origin: [3] place of the file's world that is their origin.
        run: Content of run.json; None for a file.
        metrics: Content of metrics.json.
        views: The views of a run that drew them.
        refined: [V, H, W, 4] the views after the last refinement; None without one.
    """

    path: pathlib.Path
    rows: Rows
    left_out: int
    up: str
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    run: dict[str, Any] | None = None
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    views: Capture | None = None
    refined: np.ndarray | None = None

    @property
    def request(self) -> dict[str, Any] | None:
        """Fields of the request of a generated asset."""
        settings = (self.run or {}).get("settings")
        request = settings.get("request") if isinstance(settings, dict) else None
        return request if isinstance(request, dict) else None


def check_source(given: str) -> pathlib.Path:
    """The file of gaussians of a run folder, or the file itself.

    Raises:
        InputError: There is no such thing.
    """
    path = pathlib.Path(given)
    if not path.exists():
        raise InputError(f"{given}: no such file or folder; give a run folder, or a file ending in {_suffixes()}")
    if not path.is_dir():
        return path
    asset = path / ASSET_FILE
    if not asset.is_file():
        hint = f"im3d reconstruct --data={given}" if (path / "cameras.json").is_file() else "im3d generate"
        raise InputError(f"{given}: no {ASSET_FILE} in this folder; make one with {hint}, or give a file of gaussians")
    return asset


def has_views(run: pathlib.Path) -> bool:
    """Whether a run folder keeps the views that its asset was fitted to; that of a reconstructed capture does not."""
    return (run / "cameras.json").is_file() and (run / "views").is_dir()


def open_source(given: str, up: str | None = None, *, views: bool = True) -> Source:
    """Reads a run folder or a file of gaussians.

    Args:
        given: The folder or file.
        up: Direction that is up: "z", "y" or "-y". By default "z"; files that declare a frame are turned to it.
        views: Whether to read the views of a run.

    Raises:
        InputError: There is no such thing, or nothing in it that can be drawn.
    """
    path, asset = pathlib.Path(given), check_source(given)
    if not path.is_dir():
        return _file(path, asset, up or "z", (0.0, 0.0, 0.0))
    run = read_object(path / RUN_FILE)
    source = _file(path, asset, up or "z", _origin_of(run))
    source = dataclasses.replace(source, run=run, metrics=read_object(path / METRICS_FILE) or {})
    if not views or not has_views(path):
        return source
    capture = load_capture(path)
    return dataclasses.replace(source, views=capture, refined=_last_round(path, capture))


def _file(path: pathlib.Path, file: pathlib.Path, up: str, origin: tuple[float, ...]) -> Source:
    if not os.path.getsize(file):
        raise InputError(f"{file}: the file is empty; expected gaussians in {_suffixes()}")
    with input_errors(ValueError):
        rows = load_rows(file, up=up, origin=origin)
    usable = usable_rows(rows)
    if not usable.any():
        raise InputError(f"{file}: none of its {len(rows)} gaussians can be drawn; expected at least one")
    return Source(path, rows if usable.all() else rows.take(usable), int((~usable).sum()), up, origin)


def _suffixes() -> str:
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def _origin_of(run: dict[str, Any] | None) -> tuple[float, ...]:
    origin = (run or {}).get("origin")
    if not isinstance(origin, list) or len(origin) != 3 or not all(type(value) in (int, float) for value in origin):
        return (0.0, 0.0, 0.0)
    return tuple(origin)


def _last_round(path: pathlib.Path, capture: Capture) -> np.ndarray | None:
    """The views of the last refinement, if all of them are there."""
    rounds = sorted(folder for folder in path.iterdir() if _ROUND.fullmatch(folder.name))
    if not rounds:
        return None
    files = [rounds[-1] / pathlib.PurePath(name).name for name in capture.names]
    if not all(file.is_file() for file in files):
        return None
    images = read_images(files)
    return images if images.shape == capture.images.shape else None
