"""The evaluator: silhouettes, sides, light, patterns, value ranges."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.data import toybox
from im3d_jax.data.toybox import primitives as prim
from im3d_jax.data.toybox.objects import Coat, assemble
from im3d_jax.data.toybox.render import pattern_mask
from splat import orbit_cameras


SIZE = 48
# Rendered so often that optimised programs pay here, unlike in other tests.
OPTIMISED = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "2"})


@pytest.fixture(scope="module")
def render():
    """Two views, azimuth `turn` and `turn` + 180 degrees."""

    @OPTIMISED
    def draw(toy, turn):
        cameras = orbit_cameras(toy.elevation, views=2, width=SIZE, height=SIZE, azimuth_offset=turn)
        return toybox.render_object(toy, cameras)

    return lambda toy, turn=0.0: np.asarray(draw(toy, jnp.float32(turn)))


@pytest.fixture(scope="module")
def render_many():
    @OPTIMISED
    def draw(toys):
        return jax.vmap(
            lambda toy: toybox.render_object(toy, orbit_cameras(toy.elevation, views=2, width=SIZE, height=SIZE))
        )(toys)

    return lambda toys: np.asarray(draw(toybox.stack(toys)))


def make(items, *, yaw=0.0, elevation=0.0, radius=0.9, coat=None):
    return assemble([(items, coat or Coat("white"), np.zeros(3), 1.0)], radius=radius, yaw=yaw, elevation=elevation)


@pytest.fixture(scope="module")
def every_noun(render_many):
    """Every noun at yaw 0 and 180 degrees, seen from azimuth 0 and 180: [noun,yaw,view,H,W,4]."""
    toys = [
        toybox.describe(noun=noun, colour="red", size="large", yaw=yaw, elevation=0.26)[1]
        for noun in toybox.NOUNS
        for yaw in (0.0, math.pi)
    ]
    return render_many(toys).reshape(len(toybox.NOUNS), 2, 2, SIZE, SIZE, 4)


def test_sphere_covers_the_analytic_disc(render):
    toy = make([prim.ellipsoid((0.3, 0.1, 2.0), 0.4)], radius=0.7)
    sphere_radius = 1.0 / np.linalg.norm(toy.local_from_world[0, 0, :3])
    assert 0.7 / 1.024 < sphere_radius <= 0.7
    focal = 0.5 * SIZE / math.tan(0.5 * math.radians(33.8))
    disc = math.pi * (focal * math.tan(math.asin(sphere_radius / 3.44))) ** 2
    assert render(toy)[..., 3].sum(axis=(1, 2)) == pytest.approx([disc, disc], rel=0.01)


def test_sides_face_the_right_cameras(render):
    red, green, blue, gray = (0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8), (0.4, 0.4, 0.4)
    ball = [
        prim.ellipsoid((0, 0, 0), 0.8, gray),
        prim.ellipsoid((0.6, 0, 0), 0.4, red),
        prim.ellipsoid((0, 0.6, 0), 0.4, green),
        prim.ellipsoid((0, 0, 0.6), 0.4, blue),
    ]
    middle = SIZE // 2
    front = render(make(ball))[0]
    assert front[middle, middle].argmax() == 3 and front[middle, middle, :3].argmax() == 0
    # Seen from +x with z up, +y is on the right and +z at the top.
    assert front[middle, middle + 15, :3].argmax() == 1
    assert front[middle - 15, middle, :3].argmax() == 2
    assert render(make(ball), math.pi / 2)[0][middle, middle, :3].argmax() == 1
    # A quarter turn counter-clockwise brings the +x side to the camera at azimuth 90 degrees.
    assert render(make(ball, yaw=math.pi / 2), math.pi / 2)[0][middle, middle, :3].argmax() == 0


def test_light_stays_when_the_object_turns(render):
    sphere = [prim.ellipsoid((0, 0, 0), 1.0)]
    still, turned = render(make(sphere)), render(make(sphere, yaw=1.1))
    np.testing.assert_allclose(turned, still, atol=2e-3)
    row = still[0, SIZE // 2, :, 0]
    assert row[SIZE // 2 + 12] > row[SIZE // 2 - 12] + 0.1, "the key light comes from +y as seen from frame 0"
    assert still[0, SIZE // 2 - 12, SIZE // 2, 0] > still[0, SIZE // 2 + 12, SIZE // 2, 0] + 0.1
    assert still[0].sum() > still[1].sum(), "the first view is the lit one"


def test_pattern_turns_with_the_object(render):
    body = [prim.ellipsoid((0, 0, 0), (1.0, 0.8, 0.9))]
    coat = Coat("red", "checks", "white")
    still = render(make(body, coat=coat))[0]
    turned = render(make(body, coat=coat, yaw=0.7), 0.7)[0]
    np.testing.assert_allclose(turned[..., 3], still[..., 3], atol=0.26)
    white = [image[..., 1] > 0.5 * image[..., 0] for image in (still, turned)]
    inner = still[..., 3] == 1
    assert np.mean(white[0][inner] != white[1][inner]) < 0.02
    assert 0.3 < np.mean(white[0][inner]) < 0.7


@pytest.mark.parametrize(
    ("number", "share"), [(0, 0.0), (1, 0.5), (2, math.pi * 0.31**2), (3, 0.5), (4, 0.5), (5, 0.5)]
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_patterns_have_their_share_and_period(number, share, axis):
    period = 0.25
    side = (np.arange(200) + 0.5) / 200
    u, v = np.meshgrid(side, side, indexing="ij")
    point = np.insert(np.stack([u, v]), axis, 0.123, axis=0).astype(np.float32)
    normal = np.full((3, 200, 200), 0.2, np.float32)
    normal[axis] = -0.9
    pattern = jnp.full((200, 200), float(number))
    place, facing = tuple(jnp.asarray(point)), tuple(jnp.asarray(normal))
    mark = np.asarray(pattern_mask(pattern, place, facing, jnp.float32(period)))
    assert mark.mean() == pytest.approx(share, abs=0.02)
    assert np.array_equal(mark[:100], mark[100:]) and np.array_equal(mark[:, :100], mark[:, 100:])
    if number in (1, 4):
        lines = mark if number == 1 else mark.T
        assert np.all(lines == lines[:, :1]), "stripes run along v, bands along u"


def test_values_are_straight_colours_in_range(every_noun):
    rgb, alpha = every_noun[..., :3], every_noun[..., 3]
    assert np.all((every_noun >= 0) & (every_noun <= 1))
    np.testing.assert_array_equal(np.unique(alpha), [0, 0.25, 0.5, 0.75, 1.0])
    assert np.all(rgb[alpha == 0] == 0)
    # Straight colour: partly covered pixels are as bright as their covered neighbours.
    assert rgb[alpha == 0.25].max(axis=-1).mean() > 0.6 * rgb[alpha == 1].max(axis=-1).mean()


def test_brightest_surface_stays_off_white(render):
    images = render(make([prim.ellipsoid((0, 0, 0), 1.0)]), math.radians(50))
    assert 0.7 < images[..., :3].max() < 0.88


def test_every_noun_is_seen_and_breaks_rotational_symmetry(every_noun):
    for noun, images in zip(toybox.NOUNS, every_noun, strict=True):
        area = images[..., 3].mean(axis=(1, 2, 3)).min()
        assert area > 0.04, f"{noun} covers {area:.3f} of the picture"
        front, back = (image[0, ..., :3] * image[0, ..., 3:] + 1 - image[0, ..., 3:] for image in images)
        changed = np.mean(np.abs(front - back).max(axis=-1) > 0.1) / images[0, 0, ..., 3].mean()
        assert changed > 0.03, f"{noun}: front and back differ in {changed:.3f} of its area"


def test_nothing_touches_the_picture_edge(every_noun):
    alpha = every_noun[..., 3]
    assert np.all(alpha[..., [0, -1], :] == 0) and np.all(alpha[..., :, [0, -1]] == 0)


def test_batched_objects_equal_single_ones(render, render_many):
    box = toybox.Toybox("train")
    toys = [box.sample(index) for index in (3, 4, 5)]
    for toy, batched in zip(toys, render_many(toys), strict=True):
        assert np.mean(np.abs(batched - render(toy)) > 1e-3) < 1e-3


def test_supersampling_refines_coverage():
    toy = make([prim.ellipsoid((0, 0, 0), 1.0)])
    cameras = orbit_cameras(0.0, views=1, width=16, height=16)
    draw = jax.jit(toybox.render_object, static_argnums=2)
    single = np.asarray(draw(toy, cameras, 1))
    assert set(np.unique(single[..., 3])) == {0.0, 1.0}
    triple = np.asarray(draw(toy, cameras, 3))
    np.testing.assert_allclose(triple[..., 3] * 9, np.round(triple[..., 3] * 9), atol=1e-5)
    assert np.abs(triple[..., 3] - single[..., 3]).max() < 0.7
