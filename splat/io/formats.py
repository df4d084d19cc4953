"""`load` and `save` for all file formats of gaussians."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from splat.gaussians import Gaussians
from splat.io.compressed_ply import encode_compressed_ply
from splat.io.dotsplat import decode_splat, encode_splat
from splat.io.files import FarAway, Malformed, Rows, about, check_writable, on_device, on_host, write_atomically
from splat.io.frames import to_y_up, transform
from splat.io.gltf import decode_glb, encode_glb
from splat.io.ply import decode_ply, encode_ply
from splat.io.sog import decode_sog, encode_sog
from splat.io.spz import decode_spz, encode_spz
from splat.typing import AnyArray


SUFFIXES = (".ply", ".spz", ".sog", ".splat", ".glb")
# Name and highest SH degree of the formats that hold only valid gaussians.
_HOLDS = {".spz": ("SPZ", 3), ".sog": ("SOG", 3), ".splat": (".splat", 0), ".glb": ("glTF", 3)}


def save(
    path: str | os.PathLike,
    gaussians: Gaussians,
    active: Bool[AnyArray, "N"] | None = None,
    *,
    up: str = "z",
    **options: Any,
) -> None:
    """Writes gaussians in the format of the file's suffix, atomically.

    .ply keeps every number unless it is compressed. .spz and .sog quantise (about a tenth of the size), .splat
    quantises and keeps degree-0 colour only, .glb keeps float32. SPZ and glTF files are y-up, so gaussians are rotated
    on the way; PLY, SOG and .splat files stay in the gaussians' own world.

    Args:
        path: File to write, ending in .ply, .spz, .sog, .splat or .glb; its folder must exist.
        gaussians: N gaussians of one scene.
        active: [N] bool, rows to write; None for all.
        up: Direction that is up in the gaussians' world: "z" (assets of this project), "y" or "-y" (COLMAP).
        **options: Options of the format: `lean` (PLY, see `save_ply`) or `compressed` (PLY, PlayCanvas' layout), and
            `version`, `fractional_bits` and `sh_bits` (SPZ, see `splat.io.spz.encode_spz`).

    Raises:
        ValueError: The suffix or `up` is unknown, or the format cannot hold the gaussians.
        TypeError: The format does not have an option.
        OSError: The file cannot be written, or `path` is a device, FIFO or socket.
    """
    path = pathlib.Path(path)
    turn = to_y_up(up)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: {suffix!r} is no format of gaussians; expected {', '.join(SUFFIXES)}")
    write_atomically(path, encode(on_host(gaussians, active), suffix, turn, **options))


def load(path: str | os.PathLike, *, up: str = "z", origin: Sequence[float] = (0.0, 0.0, 0.0)) -> Gaussians:
    """Reads gaussians from a PLY (compressed or not), SPZ, SOG (version 2), .splat or .glb file.

    The content decides the format; where it does not, the suffix does.

    Args:
        path: File to read.
        up: Direction that is up in the result, "z", "y" or "-y": y-up files (SPZ, glTF) are rotated to it. PLY, SOG
            and .splat files declare no frame and are not rotated.
        origin: [3] point of the result's frame that becomes the origin: for scenes in world coordinates of double
            precision, which float32 cannot hold.

    Returns:
        `Gaussians`. SPZ, .splat and .glb files give finite opacity logits and quaternions of length one (zero where the
        file has zero); PLY files give their numbers, with the limits as `load_ply` has them.

    Raises:
        ValueError: The file holds no gaussians or is damaged, `up` is unknown, or the positions are too far from the
            origin for float32; one line says why.
        OSError: The file cannot be read.
    """
    return on_device(load_rows(path, up=up, origin=origin))


def load_rows(path: str | os.PathLike, *, up: str = "z", origin: Sequence[float] = (0.0, 0.0, 0.0)) -> Rows:
    """As `load`, but in numpy arrays."""
    turn = to_y_up(up).T
    path = pathlib.Path(path)
    data = path.read_bytes()
    kind = detect(data, path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: neither its content nor its suffix is one of {', '.join(SUFFIXES)}")
    try:
        return about(decode(data, kind, turn), origin)
    except FarAway as problem:
        raise ValueError(f"{path}: {problem}") from None
    except Malformed as problem:
        raise ValueError(f"{path}: {problem}; expected a {kind} file of gaussians") from None


def detect(data: bytes, suffix: str) -> str | None:
    """Finds the format of a file.

    Args:
        data: Its bytes.
        suffix: Decides where the content does not.

    Returns:
        One of `SUFFIXES`, or None.
    """
    for start, kind in (
        (b"ply\n", ".ply"),
        (b"ply\r", ".ply"),
        (b"glTF", ".glb"),
        (b"NGSP", ".spz"),
        (b"PK\3\4", ".sog"),
    ):
        if data.startswith(start):
            return kind
    # .splat files have no magic number: their first two bytes may equal those of gzip.
    if data.startswith(b"\x1f\x8b") and suffix != ".splat":
        return ".spz"
    return suffix if suffix in SUFFIXES else None


def encode(gaussians: Rows, kind: str, turn: Float[np.ndarray, "3 3"], **options: Any) -> bytes:
    """Encodes a whole file.

    Args:
        gaussians: Rows to write.
        kind: One of `SUFFIXES`.
        turn: [3, 3] rotation from the gaussians' world to the frame of y-up formats.
        **options: See `save`.

    Returns:
        The file's bytes.

    Raises:
        ValueError: The format cannot hold these gaussians.
        TypeError: The format does not have an option.
    """
    if kind == ".ply" and options.pop("compressed", False):
        return encode_compressed_ply(check_writable(gaussians, "compressed PLY", 3), **options)
    if kind == ".ply":
        return encode_ply(gaussians, **options)
    gaussians = check_writable(gaussians, *_HOLDS[kind])
    if kind == ".splat":
        return encode_splat(gaussians, **options)
    if kind == ".sog":
        return encode_sog(gaussians, **options)
    turned = transform(gaussians, turn)
    return encode_spz(turned, **options) if kind == ".spz" else encode_glb(turned, **options)


def decode(data: bytes, kind: str, turn: Float[np.ndarray, "3 3"]) -> Rows:
    """Decodes a whole file.

    Args:
        data: Its bytes.
        kind: One of `SUFFIXES`.
        turn: [3, 3] rotation from the frame of y-up formats to that of the result.

    Returns:
        Its gaussians.

    Raises:
        Malformed: The file is damaged or not supported.
    """
    if kind == ".ply":
        return decode_ply(data)
    if kind in (".splat", ".sog"):
        return decode_splat(data) if kind == ".splat" else decode_sog(data)
    return transform(decode_spz(data) if kind == ".spz" else decode_glb(data), turn)
