"""Parameter trees as flat dictionaries of dotted names, and safetensors files of them."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.typing import DTypeLike

from im3d_jax.atomic import replacing
from im3d_jax.errors import WeightsError


def flatten(tree: dict) -> dict[str, jax.Array]:
    """Nested parameters to {dotted name: array}, sorted by name."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return dict(sorted((".".join(str(key.key) for key in path), leaf) for path, leaf in leaves))


def unflatten(flat: Mapping[str, jax.Array | np.ndarray], template: dict) -> dict:
    """The inverse of `flatten`.

    `template` (arrays or shapes) says where dots nest and where they are part of a name.

    Raises:
        WeightsError: If names or shapes differ from the template's.
    """
    wanted = {name: tuple(leaf.shape) for name, leaf in flatten(template).items()}
    missing, unknown = sorted(wanted.keys() - flat.keys()), sorted(flat.keys() - wanted.keys())
    if missing or unknown:
        raise WeightsError(
            f"the weights do not fit the network: {len(missing)} tensors missing ({', '.join(missing[:3])}), "
            f"{len(unknown)} unknown ({', '.join(unknown[:3])})"
        )
    for name, shape in wanted.items():
        if tuple(flat[name].shape) != shape:
            raise WeightsError(f"tensor {name} has shape {tuple(flat[name].shape)}, expected {shape}")
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    return jax.tree.unflatten(structure, [flat[".".join(str(k.key) for k in path)] for path, _ in leaves])


def save_safetensors(
    path: str | os.PathLike, flat: dict, metadata: dict[str, str] | None = None, dtype: DTypeLike | None = None
) -> None:
    """Writes {name: array} atomically, optionally cast to `dtype` (bfloat16 for what is shipped)."""
    arrays = {k: np.asarray(v if dtype is None else jnp.asarray(v, dtype)) for k, v in flat.items()}
    arrays = {k: np.ascontiguousarray(v).reshape(v.shape) for k, v in arrays.items()}
    with replacing(path) as partial:
        safetensors.numpy.save_file(arrays, partial, metadata)


def check_no_pickle(path: pathlib.Path) -> None:
    """Refuses files that are missing, unreadable or pickles.

    Raises:
        WeightsError: One line that says which.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: the file is missing")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"cannot read {path} ({error.strerror}): check its permissions") from error
    # A safetensors file starts with its header's length, which may look like a pickle's first two bytes.
    if head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise WeightsError(
            f"{path} is a pickle, which can run code when read: convert it once with d = torch.load(path, "
            "weights_only=True); safetensors.torch.save_file(d.get('state_dict', d), 'model.safetensors')"
        )


def load_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads {name: array} in the stored dtypes.

    Raises:
        WeightsError: If the file is missing, is a pickle, or is damaged.
    """
    path = pathlib.Path(path)
    check_no_pickle(path)
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}): copy or download it again") from error
