"""LPIPS weights that a user names: files, and those of lpips-j from the hub's cache."""

import hashlib
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from im3d_jax.errors import InputError
from im3d_jax.models import lpips
from im3d_jax.weights.lpips_weights import FILES, REPOSITORY, find_lpips, load_lpips


h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in lpips.expected_shapes().items()}


@pytest.fixture(scope="module")
def cache(params, tmp_path_factory):
    """A hub's cache that holds lpips-j's files, and their paths."""
    folder = tmp_path_factory.mktemp("hub")
    snapshot = folder / ("models--" + REPOSITORY.replace("/", "--")) / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0" * 40)
    backbone, heads = (snapshot / name for name in FILES)
    with h5py.File(backbone, "w") as file:
        for block, (convolutions, _) in enumerate(lpips.LEVELS):
            for layer, number in enumerate(convolutions):
                for kind in ("weight", "bias"):
                    file[f"conv{block + 1}_{layer + 1}/{kind}"] = params[f"features.{number}.{kind}"]
    with h5py.File(heads, "w") as file:
        for level in range(len(lpips.LEVELS)):
            file[f"lin{level}"] = params[f"lin{level}.weight"][None, None, :, None]
    return folder, backbone, heads


def test_without_network_the_file_and_its_place_are_named():
    with pytest.raises(InputError) as raised:
        find_lpips("lpips-j")
    line = str(raised.value)
    expected = f"--lpips_weights=lpips-j: {FILES[0]} of huggingface.co/{REPOSITORY} is not in the hub's cache"
    assert "\n" not in line and line.startswith(expected)
    assert os.environ["HF_HUB_CACHE"] in line
    assert "give both as --lpips_weights=vgg16_weights.h5,lpips_lin.h5" in line
    with pytest.raises(InputError, match="^--judge=lpips-j: "):
        load_lpips("lpips-j", "--judge")


def test_what_the_hubs_cache_holds_is_read(cache):
    """In a process of its own, as the hub's library takes its cache from the environment when it is imported."""
    folder, backbone, heads = cache
    code = "from im3d_jax.weights.lpips_weights import load_lpips; print(load_lpips('lpips-j').sha256)"
    environment = os.environ | {"HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = hashlib.sha256(backbone.read_bytes() + heads.read_bytes()).hexdigest()
    assert done.stdout.strip() == expected


def test_files_separated_by_commas(cache, params):
    _, backbone, heads = cache
    weights = load_lpips(f"{backbone},{heads}")
    assert weights.params.keys() == params.keys()
    jax.tree.map(np.testing.assert_array_equal, dict(weights.params), params)
    network = weights.network()
    assert len(network.weights) == 5


def test_files_that_cannot_be_used(cache, tmp_path):
    _, backbone, heads = cache
    with pytest.raises(InputError, match=r"--lpips_weights=none.h5: no such file; expected VGG16 and the LPIPS heads"):
        load_lpips(f"{backbone},none.h5")
    with pytest.raises(InputError, match="no lin0.weight in .*name the files of both"):
        load_lpips(str(backbone))
    damaged = tmp_path / "cut.h5"
    damaged.write_bytes(heads.read_bytes()[:100])
    (tmp_path / "cut.safetensors").write_bytes(b"no")
    for file in (damaged, tmp_path / "cut.safetensors"):
        with pytest.raises(InputError) as raised:
            load_lpips(f"{backbone},{file}")
        assert "\n" not in str(raised.value) and file.name in str(raised.value)


def test_numbers_that_hdf5_declares_alone_take_no_memory(tmp_path):
    path = tmp_path / "bomb.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("conv1_1/weight", (10**6, 10**6), np.float32, chunks=(64, 64))
        file.create_dataset("fc6/weight", (10**6, 10**6), np.float32, chunks=(64, 64))
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match="bomb.h5 declares 4e.03 GB of conv1_1/weight"):
        load_lpips(str(path))
