"""The one place that makes device meshes and sharding rules.

Axes: ``data`` splits the batch, ``fsdp`` splits parameters and optimizer moments (and the batch as well). All
axes are `AxisType.Auto`: the Explicit axes that `jax.make_mesh` makes by default refuse convolutions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from im3d_jax.typing import Device


# Splitting an array of fewer elements costs more than it saves.
SMALLEST_SPLIT = 2**16


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Device] | None = None) -> Mesh:
    """Makes a ``(data, fsdp)`` mesh.

    Args:
        data: Devices along the batch; -1 takes all that `fsdp` leaves.
        fsdp: Devices over which parameters are split.
        devices: The devices to use; all of this program's by default.

    Raises:
        ValueError: If the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices()) if devices is None else list(devices)
    if data == -1 and fsdp >= 1:
        data = len(devices) // fsdp
    if data < 1 or data * fsdp != len(devices):
        raise ValueError(
            f"a mesh of data={data} x fsdp={fsdp} needs {data * fsdp} devices, but there are {len(devices)}: "
            "choose sizes whose product is the number of devices, or data=-1"
        )
    return Mesh(np.asarray(devices).reshape(data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def using(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """A context in which kernels that the compiler cannot split learn the mesh; None for no mesh."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of an array whose leading axis is the batch."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def fsdp_sharding(mesh: Mesh, tree: Any, min_size: int = SMALLEST_SPLIT) -> Any:
    """Shardings that split each large array's largest divisible dimension over ``fsdp``.

    Args:
        mesh: A mesh of `make_mesh`.
        tree: Arrays or `jax.ShapeDtypeStruct`s.
        min_size: Arrays with fewer elements are replicated.
    """
    size = mesh.shape["fsdp"]

    def rule(leaf):
        shape = leaf.shape
        if size == 1 or np.prod(shape, dtype=np.int64) < min_size:
            return replicated(mesh)
        for axis in sorted(range(len(shape)), key=lambda i: -shape[i]):
            if shape[axis] % size == 0:
                return NamedSharding(mesh, P(*[None] * axis, "fsdp"))
        return replicated(mesh)

    return jax.tree.map(rule, tree)
