"""One door to all file formats of gaussians: `load` and `save`."""

import os
import pathlib

import numpy as np

from splat.gaussians import Gaussians
from splat.io.dotsplat import decode_splat, encode_splat
from splat.io.files import Malformed, Rows, check_writable, on_device, on_host, write_atomically
from splat.io.frames import to_y_up, transform
from splat.io.gltf import decode_glb, encode_glb
from splat.io.ply import decode_ply, encode_ply
from splat.io.spz import decode_spz, encode_spz


SUFFIXES = (".ply", ".spz", ".splat", ".glb")
# Name and highest SH degree of the formats that hold only sound gaussians.
_HOLDS = {".spz": ("SPZ", 3), ".splat": (".splat", 0), ".glb": ("glTF", 3)}


def save(path: str | os.PathLike, gaussians: Gaussians, active=None, *, up: str = "z", **options) -> None:
    """Writes gaussians in the format that the file's suffix names; a reader never sees half of it.

    .ply keeps every number. .spz quantises (about a tenth of the size), .splat quantises and keeps degree-0
    colour only, .glb keeps float32. SPZ and glTF files are y-up, so gaussians are turned on the way; PLY and
    .splat files stay in the gaussians' own world.

    Args:
      path: target file ending in .ply, .spz, .splat or .glb; its folder must exist.
      gaussians: N gaussians.
      active: [N] bool, rows to write; all by default.
      up: direction that is up in the gaussians' world: "z" (assets of this project), "y" or "-y" (COLMAP).
      **options: of the format: `lean` (PLY, see `save_ply`), `fractional_bits` and `sh_bits` (SPZ, see
        `splat.io.spz.encode_spz`).

    Raises:
      ValueError: another suffix or `up`, or gaussians that the format cannot hold.
      TypeError: an option that the format does not have.
      OSError: the file cannot be written.
    """
    path = pathlib.Path(path)
    turn = to_y_up(up)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: {suffix!r} is no format of gaussians; expected {', '.join(SUFFIXES)}")
    write_atomically(path, encode(on_host(gaussians, active), suffix, turn, **options))


def load(path: str | os.PathLike, *, up: str = "z") -> Gaussians:
    """Reads gaussians from a PLY, SPZ (version 1 to 3), .splat or .glb file, by content, then suffix.

    Args:
      path: file.
      up: direction that shall be up in the result, "z", "y" or "-y": y-up files (SPZ, glTF) are turned so
        that it is. PLY and .splat files declare no frame and are left as they are.

    Returns:
      `Gaussians`. SPZ, .splat and .glb files give finite opacity logits and quaternions of length one (zero
      where the file says zero); PLY files give their numbers as they are.

    Raises:
      ValueError: no such file of gaussians, damaged, or another `up`; one line says why.
      OSError: it cannot be read.
    """
    turn = to_y_up(up).T
    path = pathlib.Path(path)
    data = path.read_bytes()
    kind = detect(data, path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: neither its content nor its suffix is one of {', '.join(SUFFIXES)}")
    try:
        return on_device(decode(data, kind, turn))
    except Malformed as problem:
        raise ValueError(f"{path}: {problem}; expected a {kind} file of gaussians") from None


def detect(data: bytes, suffix: str) -> str | None:
    """Format (one of `SUFFIXES`) of a file's bytes; `suffix` decides where the content does not."""
    for start, kind in ((b"ply\n", ".ply"), (b"ply\r", ".ply"), (b"glTF", ".glb"), (b"NGSP", ".spz")):
        if data.startswith(start):
            return kind
    # Two bytes are too few against a .splat file, which begins with any number.
    if data.startswith(b"\x1f\x8b") and suffix != ".splat":
        return ".spz"
    return suffix if suffix in SUFFIXES else None


def encode(gaussians: Rows, kind: str, turn: np.ndarray, **options) -> bytes:
    """A whole file.

    Args:
      gaussians: what is to be written.
      kind: one of `SUFFIXES`.
      turn: [3, 3] rotation from the gaussians' world to the frame of y-up formats.
      **options: see `save`.

    Raises:
      ValueError: the format cannot hold these gaussians.
    """
    if kind == ".ply":
        return encode_ply(gaussians, **options)
    gaussians = check_writable(gaussians, *_HOLDS[kind])
    if kind == ".splat":
        return encode_splat(gaussians, **options)
    turned = transform(gaussians, turn)
    return encode_spz(turned, **options) if kind == ".spz" else encode_glb(turned, **options)


def decode(data: bytes, kind: str, turn: np.ndarray) -> Rows:
    """Gaussians of a file's bytes.

    Args:
      data: whole file.
      kind: one of `SUFFIXES`.
      turn: [3, 3] rotation from the frame of y-up formats to the one wanted.

    Raises:
      Malformed: what is wrong.
    """
    if kind == ".ply":
        return decode_ply(data)
    if kind == ".splat":
        return decode_splat(data)
    return transform(decode_spz(data) if kind == ".spz" else decode_glb(data), turn)
