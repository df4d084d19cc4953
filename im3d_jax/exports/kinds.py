"""The kinds of files that a run or a file of gaussians can become."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

from im3d_jax.atomic import check_replaceable, check_writable, replacing_folder, write_whole
from im3d_jax.errors import InputError, input_errors
from im3d_jax.exports.cameras import is_view_folder, view_files
from im3d_jax.exports.names import GAUSSIANS, name_of
from im3d_jax.exports.pages import page_of
from im3d_jax.exports.source import Source
from im3d_jax.exports.videos import VideoSettings, encode_video
from splat.io.files import at_most_degree
from splat.io.formats import encode
from splat.io.frames import to_y_up


VIDEOS = ("mp4", "webp", "gif")
FOLDERS = ("colmap", "nerfstudio")
_ENDINGS = {
    **{kind: ending for kind, (ending, _) in GAUSSIANS.items()},
    "html": ".html",
    **{kind: f".{kind}" for kind in VIDEOS},
    **{kind: f"-{kind}" for kind in FOLDERS},
}
KINDS = tuple(_ENDINGS)


def default_out(given: str, kind: str) -> str:
    """Where an export goes by default: beside its source, with the ending of its kind."""
    path = pathlib.Path(os.path.abspath(given))
    return str(path.with_name(name_of(path) + _ENDINGS[kind]))


def check_out(out: str, kind: str, *, overwrite: bool) -> pathlib.Path:
    """The place to write to, before anything is read.

    Raises:
        InputError: It exists already, is a device, FIFO or socket, or cannot be written.
    """
    path = pathlib.Path(out)
    try:
        check_replaceable(path)
    except FileExistsError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; give another --out") from None
    if path.exists() and not overwrite:
        raise InputError(f"{out} already exists; give another --out, or --overwrite to replace it")
    if path.exists() and path.is_dir() != (kind in FOLDERS):
        what = "a folder" if path.is_dir() else "a file"
        raise InputError(f"{out} is {what}, and --to={kind} makes {'a folder' if kind in FOLDERS else 'a file'}")
    if kind in FOLDERS and path.exists() and not is_view_folder(path):
        raise InputError(f"{out} contains files that no export wrote; give another --out")
    parent = path.parent
    if not parent.is_dir():
        raise InputError(f"{out}: the folder {parent} does not exist; create it, or give another --out")
    try:
        check_writable(parent)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{out}: cannot write into {parent} ({reason}); check its permissions, or give another --out"
        ) from None
    return path


def export(source: Source, kind: str, out: pathlib.Path, video: VideoSettings | None = None) -> int:
    """Writes a file or folder, whole or not at all.

    Args:
        source: What to export.
        kind: One of `KINDS`.
        out: Where to.
        video: Of turntables.

    Returns:
        Bytes written.

    Raises:
        InputError: The kind cannot hold the source, or it cannot be written.
    """
    try:
        if kind in FOLDERS:
            return _write_folder(out, view_files(source, kind))
        content = _content(source, kind, video or VideoSettings())
        write_whole(out, content)
    except OSError as error:
        raise InputError(f"cannot write {out} ({error.strerror or error}); make room or choose another --out") from None
    return len(content)


def _content(source: Source, kind: str, video: VideoSettings) -> bytes:
    if kind in VIDEOS:
        return encode_video(source, kind, video)
    return page_of(source) if kind == "html" else _encode(source, kind)


def _encode(source: Source, kind: str) -> bytes:
    ending, options = GAUSSIANS[kind]
    rows = source.rows
    if kind == "ply-lean":
        rows = at_most_degree(rows, "lean PLY", 0)
    if kind in ("ply", "ply-lean"):
        options = options | {"origin": source.origin}
    with input_errors(ValueError):
        return encode(rows, "." + ending.rpartition(".")[2], to_y_up(source.up), **options)


def _write_folder(out: pathlib.Path, files: Mapping[str, bytes]) -> int:
    with replacing_folder(out) as partial:
        for name, content in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return sum(map(len, files.values()))
