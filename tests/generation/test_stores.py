"""How results are kept: what a file gives back is what a run in memory goes on with, to the last bit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.data.captures import load_capture
from im3d_jax.errors import InputError
from im3d_jax.generation.stores import AssetFile, FitFile, OrbitFiles, OtherFiles, PictureFile, ViewFiles
from im3d_jax.output.run_folder import RunFolder, StageFiles
from im3d_jax.pipelines import Orbit
from im3d_jax.reconstruction import fitting
from splat import Gaussians, orbit_cameras
from tests.fake_model import FIT


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path, {})
    made.start()
    return made


def through_files(store, value, folder):
    """What the store reads after it has written."""
    store.write(value, StageFiles(folder.path))
    return store.read(folder)


def images(count):
    return np.random.default_rng(0).uniform(-0.1, 1.1, (count, 6, 5, 4)).astype(np.float32)


def gaussians(count=3):
    rng = np.random.default_rng(1)
    sizes = {"means": (3,), "quats": (4,), "log_scales": (3,), "opacity_logits": (), "sh": (1, 3)}
    return Gaussians(
        **{name: jnp.asarray(rng.normal(size=(count, *size)), jnp.float32) for name, size in sizes.items()}
    )


def test_pictures_are_rounded_to_8_bits(folder):
    picture, views = PictureFile("input.png"), ViewFiles("views", 3)
    for store, value in ((picture, images(1)[0]), (views, images(3))):
        np.testing.assert_array_equal(through_files(store, value, folder), store.stored(value))
        np.testing.assert_array_equal(store.stored(store.stored(value)), store.stored(value))
        assert np.abs(store.stored(value) - value.clip(0, 1)).max() <= 0.51 / 255
    assert views.names == ["views/00.png", "views/01.png", "views/02.png"]


@pytest.mark.parametrize("elevation", [0.3, -0.7, 0.0])
def test_cameras_go_through_the_matrices_of_the_file(folder, elevation):
    store = OrbitFiles(["views/00.png", "views/01.png", "views/02.png"], "bundle")
    facts = {"elevation_deg": np.degrees(elevation), "elevation": "given", "direction": "ccw"}
    orbit = Orbit(orbit_cameras(elevation, views=3, width=5, height=6), elevation, facts)
    read, stored = through_files(store, orbit, folder), store.stored(orbit)
    jax.tree.map(np.testing.assert_array_equal, read.cameras, stored.cameras)
    assert read.elevation == stored.elevation == pytest.approx(elevation) and read.facts == stored.facts == facts
    # The file is a capture's too, which names the family.
    for name in store.file_paths:
        (folder.path / name).parent.mkdir(exist_ok=True)
        PictureFile(name).write(images(1)[0], StageFiles(folder.path))
    capture = load_capture(folder.path)
    assert capture.generated and capture.family == "bundle" and capture.elevation == read.elevation
    np.testing.assert_array_equal(capture.cameras.world_to_camera, read.cameras.world_to_camera)


def test_fits_and_assets_keep_every_bit(folder):
    state = fitting.init_state(jax.random.key(0), FIT, orbit_cameras(0.3, views=4, width=24, height=24))
    read = through_files(FitFile("state/fit0.npz", FIT), state, folder)
    jax.tree.map(np.testing.assert_array_equal, read, state)
    asset = gaussians()
    read = through_files(AssetFile(), asset, folder)
    np.testing.assert_array_equal(read.means, asset.means)
    assert AssetFile().stored(asset) is asset


def test_an_asset_that_is_not_finite_is_not_exported(folder):
    spoilt = gaussians()
    spoilt = spoilt.replace(means=spoilt.means.at[1, 0].set(jnp.nan))
    with pytest.raises(InputError, match="gaussians hold a NaN or an infinity, so nothing was written") as raised:
        AssetFile().write(spoilt, StageFiles(folder.path))
    assert "\n" not in str(raised.value) and not (folder.path / "asset.ply").exists()


def test_other_files_name_those_that_differ_between_equal_runs(folder):
    store = OtherFiles(frozenset({"metrics.json"}))
    files = StageFiles(folder.path)
    content = {"sheet.png": b"x", "metrics.json": json.dumps({"seconds": 3}).encode()}
    store.write(content, files)
    assert files.written == ["sheet.png", "metrics.json"] and files.volatile == ["metrics.json"]
    assert store.stored(content) == content and store.read(folder) == {}
