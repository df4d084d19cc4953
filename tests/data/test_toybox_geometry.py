"""Ray intersections and bounds against float64 references that only know the shapes' implicit functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.data.toybox import intersect
from im3d_jax.data.toybox import primitives as prim


SPHERE = prim.ellipsoid((0, 0, 0), 1.0)
SHAPES = {
    "sphere": SPHERE,
    "open dome": prim.ellipsoid((0, 0, 0), 1.0, low=0.1),
    "closed bowl": prim.ellipsoid((0, 0, 0), 1.0, low=-0.7, high=0.2, closed=True),
    "cylinder": prim.frustum((0, 0, 0), 1.0, 1.0, 1.0),
    "mug": prim.frustum((0, 0, 0), 0.7, 1.0, 1.0, closed=(True, False)),
    "tube": prim.frustum((0, 0, 0), 1.0, 0.6, 1.0, closed=(False, False)),
    "cone": prim.frustum((0, 0, 0), 1.0, 0.0, 1.0),
    "cone on its tip": prim.frustum((0, 0, 0), 0.0, 1.0, 1.0),
    "box": prim.box((0, 0, 0), (1, 1, 1)),
    "roof": prim.box((0, 0, 0), (1, 1, 1), taper=(1.0, 0.0)),
    "pyramid": prim.box((0, 0, 0), (1, 1, 1), taper=(1.0, 1.0)),
    "hopper": prim.box((0, 0, 0), (1, 1, 1), taper=(-0.4, 0.3)),
}
IDENTITY = np.eye(3)


def constraints(shape, p):
    """Functions of points [...,3], each at most 0 inside; the first is the side, the others the slab."""
    x, y, z = np.moveaxis(p, -1, 0)
    if shape.kind == prim.BOX:
        tx, ty = shape.params[:2]
        sides = [np.abs(x) - 1 + tx * (z + 1) / 2, np.abs(y) - 1 + ty * (z + 1) / 2, np.abs(z) - 1]
        return np.max(sides, axis=0), np.full_like(x, -1.0), np.full_like(x, -1.0)
    c2, c1, c0, low, high = shape.params[:5]
    return x * x + y * y + c2 * z * z + c1 * z + c0, low - z, z - high


def first_crossing(shape, origin, direction):
    """Nearest surface point by dense sampling and bisection: (t[n], normal[n,3]), t = inf for a miss."""
    best = np.full(len(origin), np.inf)
    normal = np.zeros((len(origin), 3))
    grid = np.linspace(0.0, 12.0, 6001)
    closed = shape.params[5:7] if shape.kind == prim.REVOLUTION else (0.0, 0.0)
    for surface in range(3):
        if surface and not closed[surface - 1]:
            continue

        def value(t, surface=surface):
            return constraints(shape, origin + t[:, None] * direction)[surface]

        sampled = np.stack([value(np.full(len(origin), t)) for t in grid])
        for row, column in np.argwhere(np.sign(sampled[1:]) != np.sign(sampled[:-1])):
            a, b = grid[row], grid[row + 1]
            start, along = origin[column], direction[column]
            at = lambda t, s=surface, o=start, d=along: constraints(shape, o + t * d)[s]  # noqa: E731
            for _ in range(50):
                middle = 0.5 * (a + b)
                a, b = (middle, b) if np.sign(at(middle)) == np.sign(at(a)) else (a, middle)
            p = start + a * along
            others = [c for i, c in enumerate(constraints(shape, p)) if i != surface]
            if max(others) <= 1e-9 and a < best[column]:
                best[column] = a
                steps = 1e-6 * np.eye(3)
                normal[column] = [
                    constraints(shape, p + e)[surface] - constraints(shape, p - e)[surface] for e in steps
                ]
    return best, normal


@pytest.fixture(scope="module")
def rays():
    """Rays from a sphere of radius 5 towards points near the shape, of different lengths."""
    rng = np.random.default_rng(0)
    origin = rng.normal(size=(160, 3))
    origin *= 5.0 / np.linalg.norm(origin, axis=-1, keepdims=True)
    direction = rng.uniform(-1.2, 1.2, (160, 3)) - origin
    return origin, direction / np.linalg.norm(direction, axis=-1, keepdims=True) * rng.uniform(0.7, 1.4, (160, 1))


@pytest.fixture(scope="module")
def trace():
    @jax.jit
    def both(params, origin, direction):
        o, d = (tuple(origin[:, i] for i in range(3)), tuple(direction[:, i] for i in range(3)))
        return intersect.revolution(params, o, d), intersect.tapered_box(params, o, d)

    def run(shape, origin, direction):
        hits = both(jnp.array(shape.params, jnp.float32), jnp.float32(origin), jnp.float32(direction))
        t, *normal = hits[0] if shape.kind == prim.REVOLUTION else hits[1]
        return np.asarray(t, np.float64), np.stack([np.asarray(c, np.float64) for c in normal], axis=-1)

    return run


@pytest.mark.parametrize("name", SHAPES)
def test_nearest_hit_and_normal_match_brute_force(name, rays, trace):
    origin, direction = rays
    shape = SHAPES[name]
    expected, expected_normal = first_crossing(shape, origin, direction)
    t, normal = trace(shape, origin, direction)
    hit = t < 0.5 * intersect.MISS
    # A ray that grazes an edge may fall either way.
    assert np.sum(hit != np.isfinite(expected)) <= 1
    both = hit & np.isfinite(expected)
    assert both.sum() > 40
    np.testing.assert_allclose(t[both], expected[both], atol=2e-4)
    cosine = np.sum(normal * expected_normal, axis=-1)[both]
    cosine /= np.linalg.norm(normal[both], axis=-1) * np.linalg.norm(expected_normal[both], axis=-1)
    assert np.sum(cosine < 0.9999) <= 1


def test_an_open_end_shows_the_inside(trace):
    origin, direction = np.array([[0.2, 0.0, 5.0]]), np.array([[0.0, 0.0, -1.0]])
    assert trace(SHAPES["mug"], origin, direction)[0][0] == pytest.approx(6.0, abs=1e-4)
    assert trace(SHAPES["cylinder"], origin, direction)[0][0] == pytest.approx(4.0, abs=1e-4)
    assert trace(SHAPES["tube"], origin, direction)[0][0] == intersect.MISS


def test_rays_behind_the_start_and_parallel_to_faces_miss(trace):
    backwards = np.array([[0.1, 0.2, 5.0]]), np.array([[0.0, 0.0, 1.0]])
    outside = np.array([[1.5, 0.2, 5.0]]), np.array([[0.0, 0.0, -1.0]])
    for shape in (SHAPES["sphere"], SHAPES["cylinder"], SHAPES["box"]):
        assert trace(shape, *backwards)[0][0] == intersect.MISS
        assert trace(shape, *outside)[0][0] == intersect.MISS


def test_a_far_small_shape_keeps_its_digits(trace):
    """In the local units of a part of radius 0.03 the camera is 115 away."""
    offsets = np.linspace(-0.99, 0.99, 50)
    origin = np.stack([np.full(50, 115.0), offsets, np.zeros(50)], axis=-1)
    direction = np.tile([[-33.0, 0.0, 0.0]], (50, 1))
    t, _ = trace(SPHERE, origin, direction)
    np.testing.assert_allclose(t, (115.0 - np.sqrt(1 - offsets**2)) / 33.0, atol=2e-6 * 115)


def surface_points(shape, rng, count=4000):
    """Random points inside the shape and on its rims, in world coordinates."""
    p = rng.uniform(-1.0, 1.0, (count, 3))
    edge = p.copy()
    edge[:, 2] = np.where(rng.uniform(size=count) < 0.5, 1.0, -1.0)
    edge[:, :2] /= np.linalg.norm(edge[:, :2], axis=-1, keepdims=True)
    ball = p / np.linalg.norm(p, axis=-1, keepdims=True)
    points = np.concatenate([p, np.sign(p), edge, ball, edge * [0.6, 0.6, 1.0], edge * [0.7, 0.7, 1.0]])
    inside = np.max(constraints(shape, points), axis=0) <= 1e-9
    return points[inside] @ np.array(shape.linear).T + np.array(shape.offset)


@pytest.mark.parametrize("name", ["sphere", "open dome", "closed bowl", "cylinder", "mug", "cone", "roof", "box"])
def test_support_bounds_all_points_tightly(name):
    rng = np.random.default_rng(1)
    linear = rng.normal(size=(3, 3))
    shape = SHAPES[name]._replace(linear=tuple(map(tuple, linear)), offset=(0.3, -1.0, 2.0))
    directions = rng.normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    parts = prim.as_arrays([shape])
    bound = prim.support(parts, directions)
    points = surface_points(shape, rng)
    reach = (points @ directions.T).max(axis=0)
    assert np.all(reach <= bound + 1e-9)
    assert np.all(bound - reach < 0.08 * np.linalg.norm(linear))
    centre = np.array([0.1, 0.2, 0.3])
    farthest = np.linalg.norm(points - centre, axis=-1).max()
    assert farthest <= prim.bounding_radius(parts, centre) <= 1.06 * farthest


def test_rod_spans_its_end_points():
    start, end = np.array([0.1, -0.4, 0.2]), np.array([0.7, 0.5, -0.6])
    rod = prim.rod(tuple(start), tuple(end), 0.2, 0.1)
    matrix, offset = np.array(rod.linear), np.array(rod.offset)
    np.testing.assert_allclose(matrix @ [0, 0, -1] + offset, start, atol=1e-12)
    np.testing.assert_allclose(matrix @ [0, 0, 1] + offset, end, atol=1e-12)
    # The rim at the start is a circle of radius 0.2 square to the axis.
    rim = matrix @ [1, 0, -1] + offset - start
    assert np.linalg.norm(rim) == pytest.approx(0.2)
    assert rim @ (end - start) == pytest.approx(0.0, abs=1e-12)
    assert np.linalg.det(matrix) > 0


def test_rotation_is_right_handed_about_each_axis():
    np.testing.assert_allclose(np.array(prim.rotation((0, 0, 90))) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(np.array(prim.rotation((90, 0, 0))) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(np.array(prim.rotation((0, 90, 0))) @ [0, 0, 1], [1, 0, 0], atol=1e-12)
