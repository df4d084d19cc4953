"""Captures with masks and captures far from their origin, fitted: what is fitted, measured and exported."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import im3d_jax
import splat
from im3d_jax.generation.captures import CaptureSettings
from im3d_jax.generation.products import compare
from im3d_jax.images.metrics import ssim
from splat.io.ply import ply_vertices
from tests.data.posed import frames_of, write_json


SETTINGS = CaptureSettings(steps=6, sh_degree=0, gaussians=128)


def test_figures_are_those_of_the_pixels_that_count():
    rng = np.random.default_rng(0)
    renders, images = rng.uniform(size=(2, 2, 40, 40, 4)).astype(np.float32)
    renders[..., 3] = images[..., 3] = 1.0
    valid = np.zeros((2, 40, 40), bool)
    valid[:, :30, :25] = True
    found = compare(renders, images, valid=valid)
    expected = compare(renders[:, :30, :25], images[:, :30, :25])
    assert found["psnr"] == pytest.approx(expected["psnr"], abs=1e-3)
    assert found["ssim"] == pytest.approx(expected["ssim"], abs=1e-5)
    # What stands in pixels that do not count makes no difference.
    damaged = images.copy()
    damaged[:, 5:20, 5:20, :3] = 0.0
    valid = np.ones_like(valid)
    valid[:, 5:20, 5:20] = False
    assert compare(damaged, images)["psnr"] < 15 and compare(damaged, images, valid=valid)["psnr"] == 100.0
    assert compare(damaged, images, valid=valid)["ssim"] == pytest.approx(1.0, abs=1e-5)
    assert compare(renders, images, valid=np.ones_like(valid))["ssim"] == pytest.approx(
        float(np.mean(ssim(jnp.asarray(renders[..., :3]), jnp.asarray(images[..., :3])))), abs=1e-5
    )


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """A capture in UTM coordinates, whose masks hide the right half of one picture."""
    folder = tmp_path_factory.mktemp("far")
    at = (500_123.4, 5_012_345.6, 312.5)
    names = [f"images/{place}.png" for place in range(4)]
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for place, name in enumerate(names):
        pixels = np.full((16, 24, 3), 40 * place, np.uint8)
        Image.fromarray(pixels).save(folder / name)
    mask = np.full((16, 24), 255, np.uint8)
    mask[:, 12:] = 0
    Image.fromarray(mask).save(folder / "masks/1.png.png")
    return write_json(folder, {"camera_angle_x": 0.7, "frames": frames_of(names, at)}), np.array(at)


def test_an_asset_far_from_the_origin_is_exported_in_its_world(far, tmp_path):
    folder, at = far
    lines = []
    asset = im3d_jax.reconstruct(
        folder, settings=SETTINGS, out=tmp_path / "out", progress=lambda e: lines.append(e.note)
    )
    assert any("masks of 1 of 4 views are applied" in line for line in lines)
    columns = ply_vertices((tmp_path / "out/asset.ply").read_bytes())
    places = np.stack([columns[name] for name in "xyz"], axis=-1)
    assert places.dtype == np.float64 and np.abs(places - at[None]).max() < 20
    np.testing.assert_allclose(places - np.array(asset.origin)[None], asset.gaussians.means, atol=1e-6)
    assert columns["opacity"].dtype == np.float32
    settings = json.loads((tmp_path / "out/run.json").read_text())
    assert settings["origin"] == list(asset.origin)
    # The run resumes from its own file, and draws the same.
    again = im3d_jax.reconstruct(folder, settings=SETTINGS, out=tmp_path / "out")
    np.testing.assert_array_equal(again.gaussians.means, asset.gaussians.means)
    assert splat.load_ply(tmp_path / "out/asset.ply", origin=asset.origin).means.dtype == jnp.float32
    asset.save(tmp_path / "copy.ply")
    assert (tmp_path / "copy.ply").read_bytes() == (tmp_path / "out/asset.ply").read_bytes()
    asset.save(tmp_path / "copy.splat")
    assert np.abs(splat.load(tmp_path / "copy.splat").means).max() < 20
