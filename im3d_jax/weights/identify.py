"""What a path of weights is, and a fingerprint of its content; without JAX."""

from __future__ import annotations

import hashlib
import os
import pathlib

from im3d_jax.digests import file_hash


NETWORK_FOLDERS = ("unet", "vae", "image_encoder", "text_encoder")
SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".ckpt", ".pt", ".pth")
# Not a file beside the weights: a folder with one file of weights may be given as a model.
HEAD = "elevation_head/model.safetensors"
# Files up to this size are hashed whole.
WHOLE = 256 * 2**20
SAMPLES, SAMPLE = 256, 2**16


def holds_checkpoint(path: str | os.PathLike) -> bool:
    """Whether a path looks like weights of SVD, SV3D or Stable Diffusion rather than like a bundle of this project.

    Such are files, diffusers' folders, and folders that hold weights without a bundle's config.json. Whether they can
    be read is another question.
    """
    if os.path.isfile(path):
        return True
    if not os.path.isdir(path):
        return False
    folder = pathlib.Path(path)
    if any((folder / name).is_dir() for name in NETWORK_FOLDERS):
        return True
    if (folder / "config.json").is_file():
        return False
    return any(name.endswith(SUFFIXES) for name in os.listdir(folder))


def head_file(path: str | os.PathLike) -> pathlib.Path:
    """Path of the elevation head of weights: in their folder, or beside their file. It may not exist."""
    path = pathlib.Path(path)
    return (path if path.is_dir() else path.parent) / HEAD


def bundle_hash(folder: str | os.PathLike) -> str:
    """SHA-256 of a bundle's folder: that of what `sha256sum *.json *.safetensors` prints in it."""
    folder = pathlib.Path(folder)
    files = [*sorted(folder.glob("*.json")), *sorted(folder.glob("*.safetensors"))]
    listing = "".join(f"{file_hash(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def checkpoint_hash(path: str | os.PathLike) -> str:
    """SHA-256 over the JSON, text and safetensors files of a path, their names included; not of an elevation head.

    Of a file above `WHOLE` bytes only the size, the first sample (the header, with all names, shapes and offsets) and
    evenly spaced samples count: reading many gigabytes would take longer than a stage.
    """
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    value = hashlib.sha256()
    for file in sorted(files):
        if file.suffix not in (".json", ".txt", ".safetensors") or file == path / HEAD:
            continue
        name = file.name if file == path else file.relative_to(path).as_posix()
        value.update(f"{name}\n{_content(file)}\n".encode())
    return value.hexdigest()


def _content(file: pathlib.Path) -> str:
    size = file.stat().st_size
    if size <= WHOLE:
        return file_hash(file)
    value = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        for sample in range(SAMPLES):
            opened.seek(sample * (size - SAMPLE) // (SAMPLES - 1))
            value.update(opened.read(SAMPLE))
    return value.hexdigest()
