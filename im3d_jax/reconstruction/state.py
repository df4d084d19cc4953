"""The state of a fit, and its npz files: every number of a stopped fit, so that it resumes bit for bit."""

import os
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.archives import read_arrays
from im3d_jax.atomic import replacing
from im3d_jax.reconstruction.poses import Poses
from im3d_jax.reconstruction.presets import FitConfig
from splat import Gaussians
from splat.strategies import ScreenStatistics


class FitState(flax.struct.PyTreeNode):
    """Everything that a fit carries from step to step.

    Attributes:
        gaussians: Rows, some free.
        active: [N] bool, rows in use.
        first_moments: Adam's running means, as gaussians.
        second_moments: Adam's running means of squares, as gaussians.
        statistics: Screen-space gradients since the last refinement; None where the strategy needs none.
        key: PRNG key [2] uint32 of the whole fit.
        step: [] int32, steps done.
        extent: [] float32, size of the scene.
        hull: [] bool, whether the fit started on a hull (`HullStart`).
        scene: [] bool, whether it started on the surfaces of a whole scene (`PictureStart`).
        poses: Motions of the cameras, where they are refined.
        pair_capacity: Room for (tile, gaussian) pairs in a step (static).
    """

    gaussians: Gaussians
    active: jax.Array
    first_moments: Gaussians
    second_moments: Gaussians
    statistics: ScreenStatistics | None
    key: jax.Array
    step: jax.Array
    extent: jax.Array
    hull: jax.Array
    scene: jax.Array
    pair_capacity: int = flax.struct.field(pytree_node=False)
    poses: Poses | None = None


# A string stands for a size of the settings.
_Shape = tuple[int | str, ...]
_GAUSSIANS: dict[str, _Shape] = {
    "means": ("capacity", 3),
    "quats": ("capacity", 4),
    "log_scales": ("capacity", 3),
    "opacity_logits": ("capacity",),
    "sh": ("capacity", "bands", 3),
}
_OTHERS: dict[str, _Shape] = {
    "active": ("capacity",),
    "key": (2,),
    "step": (),
    "extent": (),
    "hull": (),
    "scene": (),
    "pair_capacity": (),
}
_LAYOUT: dict[str, _Shape] = _OTHERS | {
    f"{group}.{name}": shape
    for group in ("gaussians", "first_moments", "second_moments")
    for name, shape in _GAUSSIANS.items()
}
_STATISTICS: dict[str, _Shape] = {f"statistics.{name}": ("capacity",) for name in ("gradients", "counts")}
_POSES: dict[str, _Shape] = {f"poses.{name}": ("views", 6) for name in ("motions", "first_moments", "second_moments")}


def final_gaussians(state: FitState) -> Gaussians:
    """The gaussians in use, without the free rows; outside jit only."""
    rows = np.flatnonzero(np.asarray(state.active))
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[rows]), state.gaussians)


def save_state(path: str | os.PathLike, state: FitState, label: str | None = None) -> None:
    """Writes a state atomically; equal states and labels give equal bytes.

    Args:
        path: The npz file.
        state: Everything a fit needs to go on.
        label: Says what the state belongs to; `read_label` gives it back.
    """
    names = _layout(statistics=state.statistics is not None, poses=state.poses is not None)
    arrays: dict[str, Any] = {name: np.asarray(_get(state, name)) for name in sorted(names)}
    if label is not None:
        arrays["label"] = np.frombuffer(label.encode(), np.uint8)
    path = Path(path)
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)


def read_label(path: str | os.PathLike) -> str | None:
    """The label of a saved state; None where there is no file, no label, or a damaged file."""
    try:
        return read_arrays(path, ["label"])["label"].tobytes().decode()
    except (ValueError, OSError):
        return None


def load_state(path: str | os.PathLike, config: FitConfig) -> FitState:
    """Reads a state that `save_state` wrote.

    Raises:
        ValueError: The file is damaged, or belongs to a fit with another capacity or SH degree, or without the
            statistics that the strategy needs, or with or without refined poses against the settings.
    """
    statistics = config.strategy.init_statistics(config.capacity)
    layout = _layout(statistics=statistics is not None, poses=bool(config.lr_poses))
    try:
        arrays = read_arrays(path, layout)
    except ValueError as error:
        raise ValueError(f"{path} is not a saved fit ({error}); delete it and fit again") from error
    sizes: dict[int | str, int] = {"capacity": config.capacity, "bands": (config.sh_degree + 1) ** 2}
    if config.lr_poses:
        sizes["views"] = len(arrays["poses.motions"])
    for name, shape in layout.items():
        expected = tuple(sizes.get(side, side) for side in shape)
        if arrays[name].shape != expected:
            raise ValueError(
                f"{name} in {path} has shape {arrays[name].shape}; expected {expected}: "
                "it was saved with other settings; delete it and fit again"
            )
    pair_capacity = int(arrays.pop("pair_capacity"))
    leaves = jax.tree.map(jnp.asarray, arrays)
    groups = {
        group: Gaussians(**{name: leaves[f"{group}.{name}"] for name in _GAUSSIANS})
        for group in ("gaussians", "first_moments", "second_moments")
    }
    poses = Poses(*(leaves[name] for name in _POSES)) if config.lr_poses else None
    if statistics is not None:
        statistics = ScreenStatistics(*(leaves[name] for name in _STATISTICS))
    return FitState(
        **groups,
        active=leaves["active"],
        statistics=statistics,
        key=leaves["key"],
        step=leaves["step"],
        extent=leaves["extent"],
        hull=leaves["hull"],
        scene=leaves["scene"],
        pair_capacity=pair_capacity,
        poses=poses,
    )


def _layout(*, statistics: bool, poses: bool) -> dict[str, _Shape]:
    """Names and shapes of the arrays in a file."""
    return _LAYOUT | (_STATISTICS if statistics else {}) | (_POSES if poses else {})


def _get(state: FitState, name: str):
    value = state
    for part in name.split("."):
        value = getattr(value, part)
    return value
