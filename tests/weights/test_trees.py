"""Flat names and safetensors files: round trips, and one line for every kind of damage."""

import os
import pickle

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from im3d_jax.weights import WeightsError, flatten, load_safetensors, save_safetensors, unflatten


@pytest.fixture
def tree():
    # Dots inside names, as diffusers' names have them, beside dots between levels.
    return {
        "down_blocks.0.resnets.0": {
            "conv1": {"kernel": jnp.arange(6.0).reshape(2, 3)},
            "norm": {"bias": jnp.ones(3)},
        },
        "latent_mean": jnp.asarray(2.5),
    }


def test_flatten_names_and_inverse(tree):
    flat = flatten(tree)
    assert list(flat) == [
        "down_blocks.0.resnets.0.conv1.kernel",
        "down_blocks.0.resnets.0.norm.bias",
        "latent_mean",
    ]
    again = unflatten(flat, tree)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    shapes = jax.eval_shape(lambda: tree)
    assert jax.tree.structure(unflatten(dict(reversed(flat.items())), shapes)) == jax.tree.structure(tree)


def test_unflatten_names_what_differs(tree):
    flat = flatten(tree)
    with pytest.raises(WeightsError, match=r"1 tensors missing \(latent_mean\)"):
        unflatten({k: v for k, v in flat.items() if k != "latent_mean"}, tree)
    with pytest.raises(WeightsError, match=r"1 unknown \(extra\)"):
        unflatten({**flat, "extra": jnp.zeros(1)}, tree)
    with pytest.raises(WeightsError, match=r"latent_mean has shape \(2,\), expected \(\)"):
        unflatten({**flat, "latent_mean": jnp.zeros(2)}, tree)


def test_file_round_trip(tree, tmp_path):
    path = tmp_path / "a.safetensors"
    flat = {**flatten(tree), "transposed": np.arange(6.0, dtype=np.float32).reshape(2, 3).T}
    save_safetensors(path, flat)
    found = load_safetensors(path)
    assert found.keys() == flat.keys()
    for name, value in flat.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_rounding_to_bfloat16(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    save_safetensors(tmp_path / "a.safetensors", {"a": values}, dtype=jnp.bfloat16)
    found = load_safetensors(tmp_path / "a.safetensors")["a"]
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found, values.astype(ml_dtypes.bfloat16))


def test_files_have_ordinary_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        save_safetensors(tmp_path / "a.safetensors", {"a": np.zeros(3)})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644


def test_damaged_files(tmp_path):
    with pytest.raises(WeightsError, match="missing"):
        load_safetensors(tmp_path / "none.safetensors")
    path = tmp_path / "a.safetensors"
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps({"a": [1.0] * 20}, protocol))
        with pytest.raises(WeightsError, match="pickle.*weights_only=True"):
            load_safetensors(path)
    path.write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(WeightsError, match="pickle"):
        load_safetensors(path)
    save_safetensors(path, {"a": np.arange(100.0)})
    whole = path.read_bytes()
    for length in (0, 5, 30, len(whole) - 8):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="not a whole safetensors file") as error:
            load_safetensors(path)
        assert "\n" not in str(error.value)


def test_a_header_as_long_as_a_pickles_first_bytes_is_no_pickle(tmp_path):
    """640 is 0x0280, so that the file starts with bytes 80 02, as a pickle of protocol 2 does."""
    path = tmp_path / "a.safetensors"
    for padding in range(700):
        save_safetensors(path, {"a": np.arange(3.0)}, metadata={"note": "x" * padding})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no padding gave a header of 640 bytes")
    np.testing.assert_array_equal(load_safetensors(path)["a"], np.arange(3.0))
