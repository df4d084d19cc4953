"""What people look at: figures, sheets and the size of the turntable."""

import io
import json

import av
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from im3d_jax.generation.products import (
    Turntable,
    compare,
    draw_turntable,
    measure_orbit,
    page_of,
    preview_views,
    sheet_of,
)
from im3d_jax.generation.stages import Workplace
from im3d_jax.viewer import About
from splat import SH_C0, Gaussians, orbit_cameras
from tests.tiny import narrow_lpips


PLACE = Workplace(lambda *report: None, lambda line: None)


def test_figures():
    white, clear = np.ones((2, 16, 16, 4), np.float32), np.zeros((2, 16, 16, 4), np.float32)
    assert compare(white, clear) == {"psnr": 100.0, "ssim": 1.0}, "both are white on white"
    grey = white.copy()
    grey[..., :3] = 0.9
    assert compare(grey, white)["psnr"] == pytest.approx(20.0, abs=1e-3)
    with_lpips = compare(grey, white, narrow_lpips())
    assert set(with_lpips) == {"psnr", "ssim", "lpips"} and with_lpips["lpips"] >= 0


def test_a_scene_beyond_the_range_of_spz_has_no_page():
    far = Gaussians(
        jnp.full((1, 3), 5e6), jnp.eye(4)[:1], jnp.zeros((1, 3)), jnp.zeros(1), jnp.zeros((1, 1, 3), jnp.float32)
    )
    assert page_of(far, About("far", "a test"), None, {}) == {}, "some turn of it leaves the range"


def test_the_figures_tell_a_blurred_target_from_the_first_views():
    """An asset equals its targets when both are flat; only the first views show what was lost."""
    stripes = np.ones((4, 24, 24, 4), np.float32)
    stripes[:, :, ::2, :3] = 0.4
    flat = np.ones((4, 24, 24, 4), np.float32)
    flat[..., :3] = 0.7
    wide = Gaussians(
        jnp.zeros((1, 3)), jnp.eye(4)[:1], jnp.full((1, 3), 3.0), jnp.full(1, 9.0), jnp.full((1, 1, 3), 0.2 / SH_C0)
    )
    cameras = orbit_cameras(0.3, views=4, width=24, height=24)
    made = measure_orbit(PLACE, wide, About("stripes", "a test"), cameras, stripes, flat).value
    figures = json.loads(made["metrics.json"])
    first, targets = figures["against_first_views"], figures["against_targets"]
    # Of stripes one pixel wide, |4c - 4 neighbours| is twice the step of 0.6.
    assert first["sharpness_of_views"] == pytest.approx(1.2, abs=1e-3) and first["sharpness"] < 0.01
    assert targets["sharpness_of_views"] == pytest.approx(0, abs=1e-3) and targets["psnr"] > first["psnr"] + 10
    assert size_of(made["comparison.png"])[1] >= 2 * 24


def size_of(png):
    return Image.open(io.BytesIO(png)).size


def test_sheets_stay_small():
    small, large = (sheet_of(np.ones((4, side, side, 3), np.float32)) for side in (64, 600))
    width, height = size_of(small)
    assert 4 * 64 <= width < 4 * 70 and 64 <= height < 70
    assert size_of(large)[0] < 4 * 210, "three pixels become one"


def test_previews_are_a_video_and_a_sheet():
    made = preview_views(PLACE, np.ones((5, 16, 16, 4), np.float32)).value
    assert set(made) == {"views.mp4", "sheet.png"}


@pytest.mark.parametrize("enlarged, side", [(False, 24), (True, 48)])
def test_the_turntable_may_be_twice_as_large_as_the_views(enlarged, side):
    one = Gaussians(jnp.zeros((1, 3)), jnp.eye(4)[:1], jnp.full((1, 3), -1.0), jnp.ones(1), jnp.ones((1, 1, 3)))
    cameras = orbit_cameras(0.3, views=4, width=24, height=24)
    made = draw_turntable(Turntable(frames=3), enlarged)(PLACE, one, cameras).value
    with av.open(io.BytesIO(made["turntable.mp4"])) as file:
        frames = [(frame.width, frame.height) for frame in file.decode(video=0)]
    assert frames == [(side, side)] * 3
    assert size_of(made["asset_sheet.png"])[0] >= 4 * 24
