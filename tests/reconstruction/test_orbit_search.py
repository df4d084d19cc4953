"""The search of an orbit's elevation and direction on an object whose orbit is known."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.data.toybox import Toybox, render_object
from im3d_jax.reconstruction import orbit_search
from splat import Gaussians, orbit_cameras, render


RIG = dict(distance=3.44, fov=math.radians(33.8))
SIDE, VIEWS = 24, 8


@pytest.fixture(scope="module")
def views():
    """A lopsided heap of coloured balls from 25 degrees, turning clockwise."""
    rng = np.random.default_rng(3)
    count = 40
    means = rng.normal(size=(count, 3)) * np.array([0.4, 0.25, 0.3])
    heap = Gaussians(
        means=jnp.asarray(means, jnp.float32),
        quats=jnp.tile(jnp.array([[1.0, 0, 0, 0]]), (count, 1)),
        log_scales=jnp.full((count, 3), math.log(0.11)),
        opacity_logits=jnp.full((count,), 4.0),
        sh=jnp.asarray(rng.uniform(-1.7, 1.7, (count, 1, 3)), jnp.float32),
    )
    cameras = orbit_search.rig_cameras(math.radians(25.0), "cw", views=VIEWS, width=SIDE, height=SIDE, **RIG)
    image = render(heap, cameras, background=0.0)
    colour = image.rgb / jnp.maximum(image.alpha, 1e-6)[..., None]
    return np.asarray(jnp.clip(jnp.concatenate([colour, image.alpha[..., None]], -1), 0, 1))


def search(**changes):
    small = dataclasses.replace(orbit_search.Search().fit, capacity=250, initial=250, views_per_step=3)
    return dataclasses.replace(orbit_search.Search(side=SIDE, steps=60, more=100, warm=20, fit=small), **changes)


def test_the_rig_turns_both_ways():
    ours = orbit_search.rig_cameras(0.3, "ccw", views=6, width=20, height=16, **RIG)
    rig = orbit_cameras(0.3, views=6, width=20, height=16)
    np.testing.assert_allclose(ours.world_to_camera, rig.world_to_camera, atol=1e-6)
    np.testing.assert_allclose(ours.intrinsics, rig.intrinsics, rtol=1e-5)
    other = orbit_search.rig_cameras(0.3, "cw", views=6, width=20, height=16, **RIG)
    back = np.roll(np.asarray(rig.world_to_camera)[::-1], 1, axis=0)
    np.testing.assert_allclose(other.world_to_camera, back, atol=1e-5)


@pytest.mark.slow
def test_direction_and_elevation_are_found(views):
    told = []
    found = orbit_search.find_orbit(
        views, elevation=math.radians(10.0), directions=orbit_search.DIRECTIONS, key=jax.random.key(0), search=search(),
        progress=lambda *report: told.append(report), **RIG,
    )  # fmt: skip
    assert found.direction == "cw" and found.losses["cw"] < 0.9 * found.losses["ccw"]
    assert math.degrees(found.elevation) == pytest.approx(25.0, abs=3.0)
    assert [report[:2] for report in told] == [(60, 220), (120, 220), (220, 220)]


def test_the_cameras_gradient_leads_to_the_elevation():
    """Ten degrees away on an object that was not made for it: the fit ends within two."""
    cameras = orbit_search.rig_cameras(math.radians(20.0), "ccw", views=VIEWS, width=32, height=32, **RIG)
    views = np.asarray(jax.jit(render_object)(Toybox("test").sample(1), cameras))
    found = orbit_search.find_orbit(
        views, elevation=math.radians(10.0), directions=("ccw",), key=jax.random.key(0), search=search(side=32), **RIG
    )
    assert math.degrees(found.elevation) == pytest.approx(20.0, abs=2.0)
    assert found.start == math.radians(10.0) and found.reach is None


def test_the_reach_is_kept(views):
    short = search(steps=20, more=20, warm=5, lr_elevation=0.03)
    start = {"elevation": math.radians(10.0), "directions": ("cw",), "key": jax.random.key(0), "search": short, **RIG}
    near = orbit_search.find_orbit(views, reach=math.radians(3.0), **start)
    assert math.degrees(near.elevation) == pytest.approx(13.0, abs=1e-3) and near.reach == math.radians(3.0)


def test_what_is_known_is_kept(views):
    known = {"elevation": 0.4, "fixed": True, "key": jax.random.key(0), **RIG}
    assert orbit_search.find_orbit(views, directions=("ccw",), **known) == orbit_search.Orbit(0.4, "ccw", {})
    found = orbit_search.find_orbit(views, directions=orbit_search.DIRECTIONS, search=search(steps=40), **known)
    assert found.elevation == 0.4 and found.direction == "cw" and set(found.losses) == {"ccw", "cw"}


def test_steep_views_are_searched_where_they_were_taken(monkeypatch):
    """Beyond the limit of what is searched for, where the elevation is known."""
    steps, run, seen = search(steps=4), orbit_search._run, []

    def spy(state, arguments, *others):
        result = run(state, arguments, *others)
        seen.append(float(result[0].elevation))
        return result

    monkeypatch.setattr(orbit_search, "_run", spy)
    views = np.ones((3, 32, 32, 4), np.float32)
    known = {"elevation": math.radians(89.0), "fixed": True, "key": jax.random.key(0), **RIG}
    orbit_search.find_orbit(views, directions=orbit_search.DIRECTIONS, search=steps, **known)
    assert np.degrees(seen) == pytest.approx([89.0] * 4, abs=1e-3)
