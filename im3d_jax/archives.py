"""Arrays of .npz files, read without trust: nothing is allocated for numbers that a file does not hold."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Callable, Collection, Iterator

import numpy as np


MOST_BYTES = 1 << 36  # of all arrays together
# Deflate cannot exceed this ratio.
_HIGHEST_RATIO = 1032


def read_arrays(
    path: str | os.PathLike, names: Collection[str] | Callable[[str], object], most: int = MOST_BYTES
) -> dict[str, np.ndarray]:
    """Reads arrays of an .npz file; sizes are checked by its headers and contents by its checksums.

    Args:
        path: The file.
        names: Of the arrays, all of which must be there; or a function that chooses among those that are.
        most: Bytes of the arrays together.

    Raises:
        ValueError: The file is damaged or no archive, lacks an array, or declares more than it can hold or than `most`;
            the message says which, without the file's name.
        OSError: The file cannot be opened.
    """
    with open(path, "rb") as file:
        with _damage():
            archive = zipfile.ZipFile(file)
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = [name for name in members if names(name)] if callable(names) else names
        missing = [name for name in wanted if name not in members]
        if missing:
            raise ValueError(f"holds no array {missing[0]!r}")
        total = sum(members[name].file_size for name in wanted)
        if total > most:
            raise ValueError(f"declares {total / 1e9:.3g} GB, at most {most / 1e9:.3g} GB are read")
        with _damage():
            return {name: _array(archive, members[name]) for name in wanted}


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Damaged archives raise nearly anything: NotImplementedError, RuntimeError, TokenError, struct.error, ..."""
    try:
        yield
    except MemoryError:
        raise  # the file may well be whole
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.file_size > _HIGHEST_RATIO * info.compress_size + 64:
        raise ValueError(f"declares {info.file_size} bytes of {info.filename}, packed into {info.compress_size}")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        size = math.prod(shape) * dtype.itemsize
        held = info.file_size - file.tell()
        if dtype.hasobject or size != held:
            raise ValueError(f"{info.filename} of shape {shape} and type {dtype} needs {size} bytes, it holds {held}")
        content = file.read()  # to the end, where the checksum is compared
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
