"""Meshes and sharding rules; the 8-device comparison runs in its own process."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from im3d_jax import parallel


def test_mesh_of_this_machine():
    mesh = parallel.make_mesh()
    assert mesh.axis_names == ("data", "fsdp") and mesh.shape["fsdp"] == 1
    assert mesh.size == len(jax.devices())
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_sizes_that_do_not_fit():
    devices = jax.devices()[:1]
    for sizes in (dict(data=2), dict(fsdp=2), dict(data=3, fsdp=1), dict(data=0)):
        with pytest.raises(ValueError, match="but there are 1"):
            parallel.make_mesh(**sizes, devices=devices)


def test_rule_of_parameters(monkeypatch):
    """The largest dimension that divides is split; small arrays and odd shapes are whole."""
    monkeypatch.setattr(parallel, "NamedSharding", lambda mesh, spec: spec)
    mesh = types.SimpleNamespace(shape={"data": 2, "fsdp": 4})
    shapes = {
        "kernel": (3, 3, 64, 128),
        "first": (512, 128),
        "odd": (127, 520),
        "prime": (257, 257),
        "small": (64, 64),
        "scalar": (),
    }
    tree = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    specs = parallel.fsdp_sharding(mesh, tree)
    wanted = {
        "kernel": P(None, None, None, "fsdp"),
        "first": P("fsdp"),
        "odd": P(None, "fsdp"),
        "prime": P(),
        "small": P(),
        "scalar": P(),
    }
    assert specs == wanted
    assert parallel.fsdp_sharding(mesh, tree, min_size=16)["small"] == P("fsdp")
    single = types.SimpleNamespace(shape={"data": 8, "fsdp": 1})
    assert set(jax.tree.leaves(parallel.fsdp_sharding(single, tree), is_leaf=lambda x: isinstance(x, P))) == {P()}
    assert parallel.batch_sharding(mesh) == P(("data", "fsdp")) and parallel.replicated(mesh) == P()
