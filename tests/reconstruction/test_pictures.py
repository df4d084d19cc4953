"""Starts from opaque pictures: rays of lenses, depths of a plane sweep, the shell around, and when there is none."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from im3d_jax.data.captures import Capture
from im3d_jax.generation.captures import CaptureSettings
from im3d_jax.reconstruction import FitConfig, Targets, init_state, pictures, sweep
from im3d_jax.reconstruction.presets import PictureStart, capture_config
from im3d_jax.reconstruction.rays import pixel_rays
from splat.lenses import image_points


WIDTH, HEIGHT, FOCAL = 64, 48, 60.0
LENSES = {
    "pinhole": ("pinhole", None),
    "distorted": ("pinhole", (0.2, -0.05, 0.01, -0.01)),
    "fisheye": ("fisheye", (0.1, -0.02, 0.0, 0.0)),
}
START = PictureStart(count=1500, shell=400)
# A ball before a wall: both in a texture of about four pixels.
BALL, RADIUS, WALL = np.array([0.0, 0.2, 0.0]), 0.45, 0.9


def make_cameras(eyes, targets, lens="pinhole"):
    intrinsics = jnp.tile(
        jnp.asarray([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])[None], (len(eyes), 1, 1)
    )
    model, bent = LENSES[lens]
    bent = None if bent is None else jnp.tile(jnp.asarray(bent)[None], (len(eyes), 1))
    poses = splat.look_at(jnp.asarray(eyes, jnp.float32), jnp.asarray(targets, jnp.float32))
    return splat.Cameras(poses, intrinsics, WIDTH, HEIGHT, distortion=bent, model=model)


def arc(lens="pinhole"):
    """Nine cameras three units away that look at the ball, 7 degrees apart, up and down in turn."""
    angles = np.radians(7.0 * (np.arange(9) - 4))
    heights = 0.25 * (-1.0) ** np.arange(9)
    eyes = np.stack([3.0 * np.sin(angles), -3.0 * np.cos(angles), heights], axis=-1)
    return make_cameras(eyes, np.zeros((9, 3)), lens)


def scene(cameras):
    """Opaque views [V, H, W, 4] and depths [V, H * W] of the ball and the wall, by intersecting rays."""
    rays, found = (np.asarray(part, np.float64) for part in pixel_rays(cameras))
    assert found.all()
    pose = np.asarray(cameras.world_to_camera, np.float64)
    eyes = -np.einsum("vji,vj->vi", pose[:, :3, :3], pose[:, :3, 3])[:, None]
    ways = np.einsum("vji,vnj->vni", pose[:, :3, :3], rays)
    with np.errstate(divide="ignore"):
        wall = (WALL - eyes[..., 1]) / ways[..., 1]
    half, lengths = ((eyes - BALL[None, None]) * ways).sum(-1), (ways**2).sum(-1)
    inside = half**2 - lengths * (((eyes - BALL[None, None]) ** 2).sum(-1) - RADIUS**2)
    ball = (-half - np.sqrt(np.maximum(inside, 0.0))) / lengths
    depth = np.where(inside > 0, ball, wall)
    places = eyes + ways * depth[..., None]
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(3, 12, 3))
    waves *= rng.uniform(12.0, 30.0, size=(3, 12, 1)) / np.linalg.norm(waves, axis=-1, keepdims=True)
    colour = np.stack(
        [0.5 + 0.12 * np.cos(places @ wave.T + 9.0 * wave[:, 0][None, None]).sum(-1) for wave in waves], -1
    )
    rgba = np.concatenate([colour.clip(0, 1), np.ones((*depth.shape, 1))], axis=-1)
    return rgba.reshape(len(eyes), HEIGHT, WIDTH, 4).astype(np.float32), depth


@pytest.fixture(scope="module")
def views():
    cameras = arc()
    return cameras, *scene(cameras)


@pytest.mark.parametrize("lens", LENSES)
def test_rays_end_where_their_pixels_are(lens):
    cameras = arc(lens)[jnp.arange(2)]
    rays, found = pixel_rays(cameras)
    image = image_points(cameras, *jnp.moveaxis(rays * 2.5, -1, 0))
    assert found.all()
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    np.testing.assert_allclose(image.u, np.tile(columns.reshape(1, -1), (2, 1)), atol=0.02)
    np.testing.assert_allclose(image.v, np.tile(rows.reshape(1, -1), (2, 1)), atol=0.02)
    length = rays[..., 2] if lens != "fisheye" else jnp.linalg.norm(rays, axis=-1)
    np.testing.assert_allclose(length, 1.0, rtol=1e-5)


def test_pixels_outside_of_the_lens_have_no_ray():
    """At the corners the polynomial of this lens has turned back."""
    cameras = arc()[jnp.arange(1)].replace(distortion=jnp.asarray([[-1.6, 0.0, 0.0, 0.0]]))
    found = np.asarray(pixel_rays(cameras)[1]).reshape(HEIGHT, WIDTH)
    assert found[HEIGHT // 2, WIDTH // 2] and not found[0, 0] and 0.1 < found.mean() < 0.9


def errors(cameras, rgba, depth, valid=None):
    """Relative errors of the depths that are kept, and the share of the pixels that are."""
    small = sweep.small_views(rgba, cameras, valid)
    maps = sweep.depth_maps(small)
    kept = sweep.consistent(maps, small.cameras)
    return np.abs(maps.depth / depth[maps.views] - 1.0)[kept], kept


@pytest.mark.parametrize("lens", ["pinhole", "fisheye"])
def test_the_sweep_finds_the_depths(lens):
    cameras = arc(lens)
    error, kept = errors(cameras, *scene(cameras))
    assert kept.mean() > 0.4 and np.median(error) < 0.01 and np.quantile(error, 0.95) < 0.05


def test_parallel_cameras_find_depths_too():
    places = np.stack(np.meshgrid(np.arange(3), np.arange(3)), -1).reshape(-1, 2) - 1
    eyes = np.stack([0.25 * places[:, 0], np.full(9, -2.5), 0.25 * places[:, 1]], axis=-1)
    cameras = make_cameras(eyes, eyes + np.array([0.0, 1.0, 0.0])[None])
    error, kept = errors(cameras, *scene(cameras))
    assert kept.mean() > 0.3 and np.median(error) < 0.02 and np.quantile(error, 0.9) < 0.05


def test_pixels_that_do_not_count_give_no_points(views):
    cameras, rgba, depth = views
    valid = np.ones(rgba.shape[:3], bool)
    valid[::2, :, WIDTH - 16 :] = False
    _, kept = errors(cameras, np.where(valid[..., None], rgba, 0.0), depth, valid)
    kept = kept.reshape(valid.shape)
    assert not kept[~valid].any() and kept[valid].mean() > 0.3
    assert pictures.show_a_scene(np.where(valid[..., None], rgba, 0.0), valid)


def test_a_start_shows_the_scene_without_holes(views):
    cameras, rgba, _ = views
    config = FitConfig(capacity=2000, initial=10, pictures=START, extent=None)
    reports = []
    state = init_state(
        jax.random.key(0),
        config,
        cameras,
        targets=Targets(jnp.asarray(rgba)),
        report=lambda *call: reports.append(call),
    )
    assert reports == [(done, 9) for done in range(10)]
    again = init_state(jax.random.key(0), config, cameras, targets=Targets(jnp.asarray(rgba)))
    jax.tree.map(np.testing.assert_array_equal, state, again)
    # Between two of the views.
    between = make_cameras(np.array([[0.18, -3.0, 0.0]]), np.zeros((1, 3)))
    image = splat.render(state.gaussians, between, background=1.0, active=state.active)
    assert np.quantile(image.alpha, 0.01) > 0.9
    truth = scene(between)[0][0, ..., :3]
    # A quarter of the variance of the texture would be left by its local means alone.
    blurred, wanted = (
        sweep._box(jnp.moveaxis(x, -1, 0))[:, 4:-4, 4:-4] / 25 for x in (image.rgb[0], jnp.asarray(truth))
    )
    assert np.corrcoef(np.ravel(blurred), np.ravel(wanted))[0, 1] > 0.7


def test_the_shell_lies_behind_everything_and_only_where_views_look(views):
    cameras, rgba, depth = views
    small = sweep.small_views(rgba, cameras)
    cloud = sweep.Cloud(np.array([[0.0, 0.9, 0.0], [1.0, 0.9, 0.5]]), np.zeros((2, 3)), np.full(2, 0.05))
    shell = pictures.shell_around(cloud, small, {0: np.ones(WIDTH * HEIGHT, bool)}, 600)
    eyes = np.asarray(cameras.positions)
    distance = np.linalg.norm(shell.points - eyes.mean(0)[None], axis=-1)
    np.testing.assert_allclose(distance, distance[0], rtol=1e-6)
    assert distance[0] > 1.4 * np.linalg.norm(cloud.points - eyes.mean(0)[None], axis=-1).max()
    assert 20 < len(shell.points) < 300 and (shell.points[:, 1] > 0).all()
    assert np.isfinite(shell.colours).all() and shell.colours.min() >= 0 and shell.colours.max() <= 1


def test_pictures_without_a_scene_start_elsewhere(views):
    cameras, rgba, _ = views
    three = jnp.arange(3)
    assert pictures.find_surfaces(rgba[:3], cameras[three], START) is None
    blank = np.full_like(rgba, 0.5)
    blank[..., 3] = 1.0
    assert pictures.find_surfaces(blank, cameras, START) is None
    cut = rgba.copy()
    cut[0, 0, 0, 3] = 0.0
    assert pictures.find_surfaces(cut, cameras, START) is None
    config = FitConfig(capacity=2000, initial=50, pictures=START, extent=None)
    state = init_state(jax.random.key(0), config, cameras, targets=Targets(jnp.asarray(blank)))
    assert int(state.active.sum()) == 50


def test_masks_of_objects_are_no_scene(views):
    _, rgba, _ = views
    valid = np.zeros(rgba.shape[:3], bool)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    valid[:] = np.hypot(rows - 24, columns - 32)[None] < 20
    assert not pictures.show_a_scene(rgba, valid)
    valid[:] = True
    valid[:, 5:9, 5:9] = False
    assert pictures.show_a_scene(rgba, valid) and pictures.show_a_scene(rgba)


def test_points_are_thinned_by_the_size_of_a_pixel():
    rng = np.random.default_rng(0)
    near, far = rng.uniform(0, 1, (4000, 3)), rng.uniform(0, 1, (4000, 3)) + 10.0
    near[:, 2], far[:, 2] = 0.0, 10.0
    sizes = np.concatenate([np.full(4000, 0.01), np.full(4000, 0.08)])
    cloud = sweep.Cloud(np.concatenate([near, far]), np.full((8000, 3), 0.25), sizes)
    thin = sweep.thinned(cloud, 1000)
    distant = thin.points[:, 0] > 5
    assert 500 < len(thin.points) <= 1000 and 10 < distant.sum() < 0.1 * len(thin.points)
    np.testing.assert_allclose(thin.colours, 0.25)
    np.testing.assert_allclose(np.unique(thin.sizes.round(9))[1] / np.unique(thin.sizes.round(9))[0], 8.0, rtol=1e-6)
    whole = sweep.thinned(sweep.Cloud(*(part[:3] for part in cloud)), 1000)
    np.testing.assert_allclose(np.sort(whole.points, axis=0), np.sort(cloud.points[:3], axis=0))


def test_captures_of_scenes_start_from_their_pictures():
    images = np.ones((4, 16, 20, 4), np.float32)
    cameras = splat.orbit_cameras(0.3, views=4, width=20, height=16)
    capture = Capture(cameras, images, tuple("abcd"), pathlib.Path("a.json"))
    points = np.zeros((5, 3), np.float32)
    cut = np.concatenate([images[..., :3], 0.5 * images[..., 3:]], axis=-1)
    whole = CaptureSettings().config(capture)
    assert whole.pictures is not None and whole.strategy == capture_config(pictures=True).strategy
    json.dumps(dataclasses.asdict(whole), allow_nan=False)  # run.json holds it
    for other in (dataclasses.replace(capture, points=points), dataclasses.replace(capture, images=cut)):
        assert CaptureSettings().config(other).pictures is None
    for rows in (100, 1000, 40_000, 10_000_000):
        start = CaptureSettings(gaussians=rows).config(capture).pictures
        assert start is not None and 1 <= start.count + start.shell <= rows // 2
    with pytest.raises(ValueError, match=r"got pictures.count=1500 and pictures.shell=400"):
        FitConfig(capacity=1899, initial=10, pictures=START)
