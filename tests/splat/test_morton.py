"""Morton codes against bits interleaved by hand, and the order's ties, empty rows and locality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splat import morton


@pytest.fixture(scope="module")
def codes():
    return jax.jit(morton.morton_codes)


@pytest.fixture(scope="module")
def order():
    return jax.jit(morton.morton_order)


def interleave(cell):
    """Code of three integers, bit by bit through text."""
    bits = [f"{int(value):010b}" for value in cell]
    return int("".join(x + y + z for x, y, z in zip(*bits, strict=True)), 2)


def test_codes_interleave_ten_bits_of_each_axis(codes):
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 1024, (64, 3))
    cells[0], cells[1] = 0, 1023
    # Centres of the cells of a cube with corners at exactly -3 and 5, whose corners come first.
    points = np.concatenate([[[-3.0] * 3, [5.0] * 3], -3 + (cells + 0.5) * 8 / 1024])
    expected = [0, 2**30 - 1] + [interleave(cell) for cell in cells]
    np.testing.assert_array_equal(codes(jnp.asarray(points, jnp.float32)), expected)


def test_the_order_is_a_stable_permutation(order, codes):
    points = jnp.asarray(np.random.default_rng(1).integers(0, 3, (66, 3)), jnp.float32)
    found = np.asarray(order(points))
    np.testing.assert_array_equal(np.sort(found), np.arange(66))
    values = np.asarray(codes(points))
    np.testing.assert_array_equal(found, np.lexsort((np.arange(66), values)))
    np.testing.assert_array_equal(order(jnp.full((66, 3), 2.5)), np.arange(66))


def test_points_without_a_place_come_last(order, codes):
    points = np.random.default_rng(2).normal(size=(66, 3)).astype(np.float32)
    points[5, 1], points[9, 0] = np.nan, np.inf
    points[20] = 1e6  # not active: must not squeeze the others into one cell
    active = np.arange(66) != 20
    found = np.asarray(order(jnp.asarray(points), jnp.asarray(active)))
    np.testing.assert_array_equal(found[-3:], [5, 9, 20])
    assert len(np.unique(codes(jnp.asarray(points), jnp.asarray(active)))) == 64
    assert (np.asarray(codes(jnp.full((66, 3), jnp.nan))) == morton.NOWHERE).all()


def test_extreme_coordinates_stay_in_range(codes):
    points = np.zeros((66, 3), np.float32)
    points[0], points[1] = -3.4e38, 3.4e38
    found = np.asarray(codes(jnp.asarray(points)))
    assert found[0] == 0 and found[1] == 2**30 - 1 and found.max() < 2**30
    assert found[2] == interleave([512] * 3)


def test_neighbours_in_the_order_are_near_in_space(order):
    points = np.random.default_rng(3).uniform(size=(2000, 3)).astype(np.float32)
    ordered = points[np.asarray(order(jnp.asarray(points)))]
    steps = np.linalg.norm(np.diff(ordered, axis=0), axis=-1).mean()
    assert steps < 0.25 * np.linalg.norm(np.diff(points, axis=0), axis=-1).mean()


def test_no_points():
    assert morton.morton_order(jnp.zeros((0, 3))).shape == (0,)
