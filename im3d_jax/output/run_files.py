"""The files of run folders: what a run writes, and that it touches no others."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
from collections.abc import Callable

from im3d_jax.atomic import PARTIAL, replacing
from im3d_jax.digests import file_hash, json_hash
from im3d_jax.errors import RunFolderError
from im3d_jax.output.records import read_object, stage_records


RUN_FILE, TIMINGS_FILE, STAGES_FILE = "run.json", "timings.json", "state/stages.json"
PAGE, CUT_OUT = "viewer.html", "cut_out.png"
VOLATILE_HASH = "without seconds: "  # begins the hash of a file that holds seconds
# What a run writes; a folder that holds any of these without a run.json belongs to something else.
RESULTS = (
    "drawn.png", "input.png", "views", "views_round1", "views_round2", "views.mp4", "sheet.png", "cameras.json",
    "state", "asset.ply", "asset_sheet.png", "turntable.mp4", "comparison.png", "metrics.json",
    PAGE, CUT_OUT,
)  # fmt: skip
# Files that stages write in folders; an interrupted one has not recorded them.
_IN_FOLDERS = re.compile(
    r"views(_round[12])?/\d{2,}\.png|state/(fit|stages|orbit|refine)[^/]*\.(npz|json)|state/previews/\d+\.png"
)


def clean(folder: pathlib.Path, *, overwrite: bool) -> None:
    """Removes what a process that was killed could not, and with `overwrite` all that earlier runs wrote.

    Raises:
        RunFolderError: It cannot be removed.
    """
    try:
        if overwrite:
            _remove_results(folder)
        _sweep(folder)
    except OSError as error:
        raise RunFolderError(f"cannot remove {error.filename} ({error.strerror}); choose another --out") from None


def _sweep(folder: pathlib.Path) -> None:
    """Removes what a process that was killed could not."""
    for name in (".", *RESULTS, "state/previews"):
        place = folder / name
        if name != "." and not is_own_folder(place):
            continue
        # The second: files that a writer of splat moves to such a name.
        for leftover in (*place.glob(f"{PARTIAL}*"), *place.glob(f".{PARTIAL}*")):
            if leftover.is_symlink() or leftover.is_file():
                leftover.unlink(missing_ok=True)


def _remove_results(folder: pathlib.Path) -> None:
    """Removes what runs wrote, and no other file: where no run was, what there is stays until it is written over."""
    for name in RESULTS:
        if (folder / name).is_symlink() and (folder / name).is_dir():
            (folder / name).unlink()
    records = stage_records(folder / STAGES_FILE)
    if records is None and not os.path.lexists(folder / RUN_FILE):
        return
    names = {RUN_FILE, TIMINGS_FILE, *RESULTS}
    names |= {name for record in (records or {}).values() for name in record["outputs"]}
    for name in RESULTS:
        inside = (path.relative_to(folder).as_posix() for path in (folder / name).rglob("*"))
        names |= {path for path in inside if _IN_FOLDERS.fullmatch(path)}
    for name in names:
        if linked_parent(folder, name) is None and not is_own_folder(folder / name):
            (folder / name).unlink(missing_ok=True)
    for name in ("state/previews", *RESULTS):
        if is_own_folder(folder / name):
            with contextlib.suppress(OSError):  # it holds other files
                (folder / name).rmdir()


def volatile_hash(path: pathlib.Path) -> str | None:
    """Hash of a JSON object apart from its number `seconds`: that of equal runs is the same. None for other files."""
    found = read_object(path)
    if found is None:
        return None
    if type(found.get("seconds")) in (int, float):
        found["seconds"] = None
    try:
        return VOLATILE_HASH + json_hash(found)
    except (ValueError, RecursionError):  # NaN, which no stage writes
        return None


def is_whole(path: pathlib.Path, digest: str | None) -> bool:
    """Whether a file is as a stage wrote it. Without a hash, JSON files count as whole if they can be read."""
    if not path.is_file():
        return False
    if digest is None:
        return path.suffix != ".json" or read_object(path) is not None
    return digest == (volatile_hash(path) if digest.startswith(VOLATILE_HASH) else file_hash(path))


def is_own_folder(path: pathlib.Path) -> bool:
    """Whether this is a folder, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def linked_parent(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """The first symbolic link between a folder and a file in it."""
    parents = (folder / parent for parent in reversed(pathlib.PurePath(name).parents))
    return next((parent for parent in parents if parent != folder and parent.is_symlink()), None)


def outside(link: pathlib.Path) -> RunFolderError:
    """The error of a file that would be written elsewhere."""
    return RunFolderError(
        f"{link} is a symbolic link, and a run writes into its own folders alone; remove the link or choose another "
        "--out (--out itself may be one)"
    )


def write_file(folder: pathlib.Path, name: str, save: Callable[[pathlib.Path], object]) -> None:
    """Lets `save(path)` write a temporary file of the same suffix, then moves it to the file `name` of a run folder.

    Raises:
        RunFolderError: It cannot be written, or would be written outside of the folder.
    """
    path, link = folder / name, linked_parent(folder, name)
    if link is not None:
        raise outside(link)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save(partial)
    except OSError as error:
        reason = error.strerror or error
        hint = "remove it" if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST) else "make room"
        raise RunFolderError(f"cannot write {path} ({reason}); {hint} or choose another --out") from None
