"""Safetensors files tensor by tensor: what is in them, slices of it, and writing without holding it.

`trees` reads whole small files; these are for networks that should be in host memory once or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping

import ml_dtypes
import numpy as np
import safetensors
from jax.typing import DTypeLike

from im3d_jax.atomic import replacing
from im3d_jax.errors import WeightsError
from im3d_jax.weights.trees import check_no_pickle


DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# Threads that cast and move tensors, which takes longer than reading them; each holds one or two besides the result.
READERS = min(8, os.cpu_count() or 1)
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is: its file, shape, dtype as safetensors calls it (``F16``), and first byte."""

    file: pathlib.Path
    shape: tuple[int, ...]
    dtype: str
    offset: int = 0


def read_json(path: pathlib.Path) -> dict:
    """The object that a JSON file beside weights holds.

    Raises:
        WeightsError: One line: the file cannot be read, is no JSON, or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not readable as JSON ({error}): download it again") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path} must hold a JSON object, found {type(data).__name__}: download it again")
    return data


def read_json_if_there(path: pathlib.Path) -> dict:
    """As `read_json`; empty where there is no such file."""
    return read_json(path) if path.is_file() else {}


def network_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The safetensors files of one network's folder: a single one, or the shards of an index.

    A folder may hold the same network several times (half precision, without EMA): the plain name is taken.

    Raises:
        WeightsError: No file, several that could be meant, an unreadable index, or a shard that is missing or lies
            outside of the folder.
    """
    indices = _plainest(sorted(folder.glob("*.safetensors.index.json")))
    if len(indices) == 1:
        weight_map = read_json(indices[0]).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise WeightsError(
                f"{indices[0]} is not an index of shards: expected the names of files in weight_map; download it again"
            )
        names = sorted(set(weight_map.values()))
        # Not pathlib's test, which fails on names that are too long.
        away = next((name for name in names if os.path.isabs(name) or ".." in pathlib.PurePath(name).parts), None)
        if away is not None:
            raise WeightsError(
                f"{indices[0]} names the shard {away[:100]!r}, which is not in its folder: download the model again"
            )
        missing = [name for name in names if not os.path.isfile(folder / name)]
        if missing:
            shown = ", ".join(name[:100] for name in missing[:3])
            raise WeightsError(
                f"{folder} lacks {len(missing)} of the {len(names)} shards of {indices[0].name} ({shown}): "
                "download them again"
            )
        return [folder / name for name in names]
    files = _plainest(sorted(folder.glob("*.safetensors")))
    if len(files) == 1:
        return files
    if not files:
        for pattern in PICKLES:
            for pickle in sorted(folder.glob(pattern)):
                check_no_pickle(pickle)
        raise WeightsError(f"no safetensors file in {folder}: download the model's safetensors files")
    names = ", ".join(file.name for file in files[:4])
    raise WeightsError(f"{folder} holds {len(files)} safetensors files ({names}): give the path of one of them")


def _plainest(files: list[pathlib.Path]) -> list[pathlib.Path]:
    """Files without a variant (the part in `model.fp16.safetensors`) if there are such, else all."""
    plain = [file for file in files if "." not in file.name.partition(".safetensors")[0]]
    plain = [file for file in plain if "-of-" not in file.name] or plain
    return plain or files


def list_tensors(files: Iterable[pathlib.Path]) -> dict[str, StoredTensor]:
    """All tensors of some files by name.

    Raises:
        WeightsError: A file is missing, a pickle or damaged, or two files hold a tensor of the same name.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        header, start = _header(file)
        for name, field in header.items():
            if name in tensors:
                raise WeightsError(f"{file} and {tensors[name].file.name} both hold the tensor {name}")
            offset = start + field["data_offsets"][0]
            tensors[name] = StoredTensor(file, tuple(field["shape"]), field["dtype"], offset)
    return tensors


def _header(file: pathlib.Path) -> tuple[dict[str, dict], int]:
    """({name: dtype, shape, data_offsets}, place of the first tensor) of a whole file."""
    check_no_pickle(file)
    try:
        # The library checks that header and data fit together.
        with safetensors.safe_open(file, framework="numpy"), file.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(size))
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is not a whole safetensors file ({error}): copy or download it again") from error
    header.pop("__metadata__", None)
    return header, 8 + size


def check_dtypes(tensors: Mapping[str, StoredTensor]) -> None:
    """Refuses tensors of a dtype that is not one of `DTYPES`, before any is read.

    Raises:
        WeightsError: One line that names the first of them.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise WeightsError(
                f"{tensor.file} has the tensor {name} of dtype {tensor.dtype}, expected one of {', '.join(DTYPES)}: "
                "use the model's files of full or half precision"
            )


def file_metadata(file: pathlib.Path) -> dict[str, str]:
    """The free text fields of a file's header."""
    check_no_pickle(file)
    try:
        with safetensors.safe_open(file, framework="numpy") as reader:
            return dict(reader.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is not a whole safetensors file ({error}): copy or download it again") from error


def read_tensor(tensor: StoredTensor, index: tuple[slice, ...] | None = None) -> np.ndarray:
    """The tensor in its stored dtype, or a slice of it; only that is read.

    The result is mapped from the file: it takes no memory of its own, and none at all once it is let go.

    Raises:
        WeightsError: The dtype is not one of `DTYPES`.
    """
    if tensor.dtype not in DTYPES:
        raise WeightsError(f"{tensor.file} has a tensor of dtype {tensor.dtype}, expected one of {', '.join(DTYPES)}")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, DTYPES[tensor.dtype])
    mapped = np.memmap(tensor.file, DTYPES[tensor.dtype], "r", tensor.offset, tensor.shape)
    return mapped.view(np.ndarray)[index or ...]


def arranged(array: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """A copy of a view of `read_tensor`'s result, in another dtype and in C order.

    Casts that narrow come first, where the values lie in the file; others last: casting and moving at once takes up to
    four times as long.
    """
    kind = np.dtype(dtype)
    if kind.itemsize < array.dtype.itemsize:
        return np.array(array.astype(kind, order="K"), order="C")
    return np.array(array, order="C").astype(kind, copy=False)


def write_tensors(
    path: str | os.PathLike,
    tensors: Iterable[tuple[str, str, tuple[int, ...], Callable[[], np.ndarray]]],
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes a safetensors file atomically, holding one tensor at a time; nothing stays of one that is not finished.

    Args:
        path: The file; its folder must exist.
        tensors: (name, dtype as in `DTYPES`, shape, function that returns the values).
        metadata: Free text fields of the header.
    """
    path = pathlib.Path(path)
    tensors = list(tensors)
    header: dict[str, dict] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, dtype, shape, _ in tensors:
        size = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, dtype, shape, values in tensors:
            array = np.ascontiguousarray(values()).reshape(shape)
            if array.dtype != DTYPES[dtype]:
                raise ValueError(f"{name} has dtype {array.dtype}, expected {dtype}")
            # Bytes, because the file cannot take bfloat16's buffer.
            file.write(array.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
