"""Renders folders of meshes into folders of turntables.

The output:

- `objects/<id>.png`: one picture per object, its views one below the other: [views * size, size] pixels, RGBA with
  straight alpha, (0, 0, 0, 0) where nothing is covered. View i is seen from azimuth i * 360 / views degrees,
  counter-clockwise seen from above; view 0 is the conditioning view.
- `index.jsonl`: one line per object, sorted by source: `id`, `caption`, `source` (path relative to the meshes),
  `views`, `size`, `elevation_deg` and `azimuth_deg` (lists), `fov_deg`, `distance`, `sha256` and `png_bytes` of the
  picture, `notes` of the reader, and the other columns of the table of captions (`table_` before names that are taken).
- `failed.jsonl`: one line per mesh that was skipped: `id`, `source`, `reason`.
- `settings.json`: what decides the pictures, see `RenderSettings.record`.

Objects are in the rig's world: z up, field of view 33.8 degrees, distance 3.44, bounding sphere of radius 0.95 about
the origin. Equal settings and meshes give equal bytes on one machine; GPUs and versions of Mesa differ in last bits.
A rerun draws what is missing and takes captions from the present table.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from im3d_jax.atomic import LOCK_FILE, PARTIAL, Held, hold
from im3d_jax.data.meshes.model import Limits
from im3d_jax.data.meshes.settings import RenderSettings
from im3d_jax.data.meshes.sources import Source
from im3d_jax.data.meshes.workers import Fatal, draw_all, write_atomically
from im3d_jax.data.turntable_folder import read_index
from im3d_jax.errors import InputError
from im3d_jax.progress import Progress


_OF_OBJECT = re.compile(r"-[0-9a-f]{10}\.png$")  # the end of an object's file, see `sources.object_id`


def earlier_settings(path: str | os.PathLike) -> dict[str, Any] | None:
    """The settings with which an output folder was begun; None where it is new.

    Raises:
        InputError: It holds something else, or damaged settings.
    """
    path = pathlib.Path(path)
    record = path / "settings.json"
    if not os.path.isfile(record):
        if os.path.lexists(path) and not (os.path.isdir(path) and _is_new(path)):
            raise InputError(f"--out={path} holds something else; give a new folder, or one of render-dataset")
        return None
    try:
        before = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        before = None
    if not isinstance(before, dict) or "look" not in before:
        raise InputError(f"{record} is not of render-dataset, or damaged; give another --out")
    return before


def _is_new(folder: pathlib.Path) -> bool:
    """Whether nothing is there but what a run that was killed at its start leaves."""
    return all(path.name == LOCK_FILE or path.name.startswith(PARTIAL) for path in folder.iterdir())


class DatasetFolder:
    """The output folder of a run.

    Args:
        path: Made if need be.
        settings: Must be those with which the folder was begun.
        overwrite: Removes what an earlier run left there.

    Attributes:
        entries: Of the index, by id; those whose picture is there.

    Raises:
        InputError: It holds something else, was made with other settings, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike, settings: RenderSettings, *, overwrite: bool = False):
        self.path = pathlib.Path(path)
        self.objects = self.path / "objects"
        self._index, self._failed = self.path / "index.jsonl", self.path / "failed.jsonl"
        earlier_settings(self.path)  # before anything is made there
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._held = hold(self.path)
            # Again: another process may have begun and ended in between.
            record = earlier_settings(self.path)
            for own in (self.objects, self._index):
                if own.is_symlink():
                    raise InputError(f"{own} is a symbolic link; remove it or choose another --out")
            if overwrite:
                self._remove()
            elif record is not None:
                self._compare(settings, record)
            self.objects.mkdir(parents=True, exist_ok=True)
            self.clean()
        except Held as held:
            raise InputError(
                f"another process ({held.holder}) renders into --out={path}; wait for it or choose another folder"
            ) from None
        except OSError as error:
            raise InputError(f"cannot write --out={path} ({error.strerror or error}); choose another folder") from None
        write_atomically(self.path / "settings.json", (json.dumps(settings.record(), indent=2) + "\n").encode())
        self.entries = {entry["id"]: entry for entry in read_index(self._index) if self._is_there(entry)}

    def _remove(self) -> None:
        """Removes what an earlier run wrote, and no other file."""
        for path in self.objects.glob("*.png"):
            if _OF_OBJECT.search(path.name):
                path.unlink(missing_ok=True)
        for path in (self._index, self._failed, self.path / "settings.json"):
            path.unlink(missing_ok=True)

    def _compare(self, settings: RenderSettings, before: dict[str, Any]) -> None:
        now = settings.record()
        changed = [f"{name} was {before.get(name)}, now {now[name]}" for name in now if before.get(name) != now[name]]
        if changed:
            raise InputError(
                f"--out={self.path} was made with other settings ({'; '.join(changed)}); "
                "give another folder, or --overwrite to render all of it again"
            )

    def clean(self) -> None:
        """Removes what was being written when a run ended."""
        for leftover in (*self.path.glob(f"{PARTIAL}*"), *self.objects.glob(f"{PARTIAL}*")):
            leftover.unlink(missing_ok=True)

    def _is_there(self, entry: dict[str, Any]) -> bool:
        try:
            return os.path.getsize(self.objects / f"{entry['id']}.png") == entry.get("png_bytes")
        except OSError:
            return False

    def add(self, source: Source, figures: dict[str, Any]) -> None:
        """Takes a finished object into the index; a crash loses none before it."""
        entry = entry_of(source, figures)
        self.entries[source.id] = entry
        with self._index.open("ab") as file:
            before = file.tell()
            try:
                file.write(_line(entry))
                file.flush()
            except OSError as error:
                file.truncate(before)
                raise Fatal(f"cannot write {self._index} ({error.strerror or error}); make room and repeat") from None

    def finish(self, sources: Iterable[Source], failed: dict[str, dict[str, str]]) -> None:
        """Rewrites the index: sorted by source, with the captions of now; and the list of failures."""
        for source in sources:
            if source.id in self.entries:
                self.entries[source.id] = entry_of(source, self.entries[source.id])
        entries = sorted(self.entries.values(), key=lambda entry: entry["source"])
        write_atomically(self._index, b"".join(map(_line, entries)))
        write_atomically(self._failed, b"".join(_line(failed[key]) for key in sorted(failed)))

    def failures(self) -> dict[str, dict[str, str]]:
        """What earlier runs skipped, by id."""
        try:
            lines = self._failed.read_text("utf-8").splitlines()
            return {entry["id"]: entry for entry in map(json.loads, lines)}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


_FIGURES = (
    "views", "size", "elevation_deg", "azimuth_deg", "fov_deg", "distance", "sha256", "png_bytes", "notes",
)  # fmt: skip
_OWN = ("id", "caption", "source", *_FIGURES)


def entry_of(source: Source, figures: dict[str, Any]) -> dict[str, Any]:
    """A line of the index."""
    columns = {(f"table_{name}" if name in _OWN else name): value for name, value in source.columns.items()}
    own = {"id": source.id, "caption": source.caption, "source": source.name}
    return {**own, **{name: figures[name] for name in _FIGURES}, **columns}


def _line(entry: dict[str, Any]) -> bytes:
    # Escaped: a path that is no UTF-8 stays writable.
    return (json.dumps(entry) + "\n").encode()


def render_dataset(
    sources: list[Source],
    meshes: str | os.PathLike,
    folder: DatasetFolder,
    settings: RenderSettings,
    progress: Progress,
    *,
    packed: bool = False,
    workers: int = 1,
    limits: Limits | None = None,
) -> tuple[int, int]:
    """Draws what the folder lacks.

    Args:
        sources: All objects that are wanted.
        meshes: The folder of meshes, or the pack.
        folder: The output.
        settings: Of the output.
        progress: Told of every skipped mesh.
        packed: Whether `meshes` is a pack.
        workers: Processes.
        limits: Of mesh files.

    Returns:
        (objects of `sources` in the index, meshes skipped).

    Raises:
        InputError: There is no OpenGL, or the files cannot be written; what is finished is kept.
    """
    missing = [source for source in sources if source.id not in folder.entries]
    wanted = {source.id for source in missing}
    failed = {key: entry for key, entry in folder.failures().items() if key not in wanted}
    skipped = 0
    if len(missing) < len(sources):
        progress.line(f"{len(sources) - len(missing)} of {len(sources)} objects are there already")
    try:
        if missing:
            with progress.stage(f"rendering {len(missing)} objects") as report:
                drawn = draw_all(
                    missing,
                    meshes=os.fspath(meshes),
                    packed=packed,
                    out=str(folder.path),
                    settings=settings,
                    limits=Limits() if limits is None else limits,
                    workers=workers,
                )
                for number, (source, kind, value) in enumerate(drawn, 1):
                    if kind == "done":
                        folder.add(source, value)
                    else:
                        skipped += 1
                        failed[source.id] = {"id": source.id, "source": source.name, "reason": value}
                        progress.line(f"skipped {source.name}: {value}")
                    report(number, len(missing), f"{skipped} skipped" if skipped else "")
    except BaseException:
        folder.clean()
        with contextlib.suppress(Fatal):  # where the disk is full, the lines already in the index stand
            folder.finish(sources, failed)
        raise
    folder.finish(sources, failed)
    return sum(source.id in folder.entries for source in sources), skipped
