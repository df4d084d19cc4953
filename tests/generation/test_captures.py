"""Settings of captures: schedules of any length, how many gaussians, and views that no fit can use."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import im3d_jax
from im3d_jax.data.captures import Capture
from im3d_jax.errors import CaptureError
from im3d_jax.generation.captures import CaptureSettings, check_capture, settings_json
from im3d_jax.reconstruction import control, fitting
from splat import orbit_cameras
from tests.runs import write_capture


@pytest.fixture
def capture():
    images = np.zeros((4, 16, 20, 4), np.float32)
    names = tuple("abcd")
    return Capture(orbit_cameras(0.3, views=4, width=20, height=16), images, names, pathlib.Path("a.json"))


@pytest.mark.parametrize("steps", [1, 2, 40, 1000, 7000, 30_000])
def test_schedules_fit_any_length(steps, capture):
    config = CaptureSettings(steps=steps, gaussians=1000).config(capture)
    calls = [step for step in range(steps) if control.densifies(step, config)]
    resets = [step for step in range(steps) if control.resets(step, config)]
    assert 3 * config.sh_every <= max(steps, 3), "all harmonics are free before the end"
    if steps >= 1000:
        assert 10 <= len(calls) <= 150 and calls[0] >= 100 and calls[-1] <= 0.7 * steps
        assert config.sh_every == min(1000, steps // 7)
    assert resets == {7000: [3000], 30_000: [3000, 6000, 9000, 12_000]}.get(steps, [])


def test_more_gaussians_for_larger_pictures_and_more_points(capture):
    def rows(width, height, points=0):
        cameras = dataclasses.replace(capture.cameras, width=width, height=height)
        cloud = np.zeros((points, 3), np.float32) if points else None
        changed = dataclasses.replace(capture, cameras=cameras, points=cloud)
        chosen = CaptureSettings()
        assert settings_json(chosen, changed)["gaussians"] == chosen.config(changed).capacity
        return chosen.config(changed).capacity

    assert rows(200, 200) == 40_000 and rows(201, 200) == 80_000
    assert rows(4000, 3000) == 200_000 and rows(200, 200, points=150_000) == 300_000
    assert CaptureSettings(gaussians=700).config(capture).capacity == 700


def test_a_capture_is_shown_in_one_line(capture):
    assert repr(capture) == "Capture('a.json', 4 views of 20x16)"
    whole = dataclasses.replace(capture, test=capture, points=np.zeros((5, 3), np.float32))
    assert repr(whole) == "Capture('a.json', 4 views of 20x16, 4 held out, 5 points)"


def test_views_that_no_fit_can_use(capture):
    check_capture(capture)
    small = dataclasses.replace(capture, cameras=dataclasses.replace(capture.cameras, height=10))
    with pytest.raises(CaptureError, match=r"a.json: the views have 20x10 pixels; expected at least 11x11"):
        check_capture(small)
    small = dataclasses.replace(capture, cameras=dataclasses.replace(capture.cameras, height=15))
    with pytest.raises(CaptureError, match=r"20x15 pixels after --downscale=2; expected at least 16x16"):
        check_capture(small, lpips=True, downscale=2)
    run = dataclasses.replace(capture, images=capture.images[:1], family="bundle")
    with pytest.raises(CaptureError, match="one view; expected at least 2"):
        check_capture(run)
    one = dataclasses.replace(capture, images=capture.images[:1], cameras=capture.cameras[jnp.arange(1)])
    with pytest.raises(CaptureError, match="1 view from one place, so depth cannot be recovered"):
        im3d_jax.reconstruct(one)
    # Where a fit begins on a model's points, one view will do.
    check_capture(dataclasses.replace(one, points=np.eye(4, 3, dtype=np.float32)))


def test_one_program_of_many_steps_equals_one_a_step(tmp_path):
    views = im3d_jax.load_capture(write_capture(tmp_path))
    settings = CaptureSettings(12, "mcmc", 1, pose_refinement=True, gaussians=192)
    config, targets = settings.config(views), fitting.Targets(jnp.asarray(views.images))
    start = fitting.init_state(jax.random.key(0), config, views.cameras, targets=targets)
    ends = [
        fitting.fit(start, targets, views.cameras, config, stop_step=6, looped=looped)[0] for looped in (False, True)
    ]
    # The start is of round gaussians: gradients of their rotations are rounding, which Adam scales to whole steps.
    ends = [end.replace(gaussians=end.gaussians.replace(quats=start.gaussians.quats)) for end in ends]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *ends)
