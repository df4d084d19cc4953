"""The default strategy: who grows, where children lie, and that the capacity holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splat import Gaussians
from splat.strategies import DefaultStrategy, ScreenStatistics


N = 12


def scene(log_scale=-3.0):
    rng = np.random.default_rng(0)
    return Gaussians(
        means=jnp.asarray(rng.normal(size=(N, 3)), jnp.float32),
        quats=jnp.asarray(rng.normal(size=(N, 4)), jnp.float32),
        log_scales=jnp.full((N, 3), log_scale),
        opacity_logits=jnp.zeros(N),
        sh=jnp.asarray(rng.normal(size=(N, 1, 3)), jnp.float32),
    )


def seen(gradients):
    return ScreenStatistics(jnp.asarray(gradients, jnp.float32) * 3, jnp.full(N, 3.0))


ACTIVE = jnp.arange(N) < 8
RULES = DefaultStrategy(gradient_threshold=0.5, split_scale=0.1)


@pytest.fixture(scope="module")
def refine():
    return jax.jit(DefaultStrategy.refine, static_argnums=0)


def test_small_gaussians_are_cloned_into_free_rows(refine):
    gaussians = scene()
    gradients = np.zeros(N)
    gradients[[2, 5]] = 1.0, 2.0
    out = refine(RULES, jax.random.key(0), gaussians, ACTIVE, seen(gradients))
    assert int(out.active.sum()) == 10
    np.testing.assert_array_equal(np.flatnonzero(out.fresh), [8, 9])
    for leaf, before in zip(jax.tree.leaves(out.gaussians), jax.tree.leaves(gaussians), strict=True):
        np.testing.assert_array_equal(leaf[:8], before[:8])
        np.testing.assert_array_equal(leaf[jnp.array([8, 9])], before[jnp.array([5, 2])])


def test_large_gaussians_are_split_inside_their_own_ellipsoid(refine):
    gaussians = scene(log_scale=0.0)
    gaussians = gaussians.replace(log_scales=gaussians.log_scales.at[3].set(jnp.log(jnp.array([1.0, 1e-4, 1e-4]))))
    gradients = np.zeros(N)
    gradients[3] = 1.0
    keys = [jax.random.key(i) for i in range(60)]
    outs = [refine(RULES, key, gaussians, ACTIVE, seen(gradients)) for key in keys]
    children = jnp.array([3, 8])
    np.testing.assert_array_equal(np.flatnonzero(outs[0].fresh), children)
    assert int(outs[0].active.sum()) == 9
    np.testing.assert_allclose(
        outs[0].gaussians.log_scales[children],
        gaussians.log_scales[jnp.array([3, 3])] - np.log(1.6),
        atol=1e-6,
    )
    # The parent is a needle along the first column of its rotation: its children lie on that line.
    w, x, y, z = np.asarray(gaussians.quats[3]) / np.linalg.norm(gaussians.quats[3])
    axis = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])
    shifts = np.concatenate([out.gaussians.means[children] - gaussians.means[3][None] for out in outs])
    along = shifts @ axis
    assert np.abs(shifts - along[:, None] * axis).max() < 1e-3
    assert 0.75 < along.std() < 1.3 and abs(along.mean()) < 0.35
    assert np.abs(along[0::2] - along[1::2]).min() > 0


def test_the_largest_gradients_come_first_when_rows_are_short(refine):
    gradients = np.linspace(1, 2, N)
    out = refine(RULES, jax.random.key(0), scene(), ACTIVE, seen(gradients))
    assert bool(out.active.all())
    np.testing.assert_array_equal(out.gaussians.means[8:], scene().means[jnp.array([7, 6, 5, 4])])
    full = refine(RULES, jax.random.key(0), scene(log_scale=0.0), jnp.ones(N, bool), seen(gradients))
    assert int(full.active.sum()) == N and not full.fresh.any()


def test_growth_limits_the_births(refine):
    rules = DefaultStrategy(gradient_threshold=0.0, growth=0.25)
    out = refine(rules, jax.random.key(0), scene(), ACTIVE, seen(np.arange(N)))
    assert int(out.active.sum()) == 10


def test_faint_and_huge_gaussians_leave_and_their_rows_serve_again(refine):
    gaussians = scene()
    gaussians = gaussians.replace(
        opacity_logits=gaussians.opacity_logits.at[1].set(-8.0),
        log_scales=gaussians.log_scales.at[4].set(1.0),
    )
    rules = DefaultStrategy(gradient_threshold=0.5, split_scale=0.1, max_scale=0.5)
    gradients = np.zeros(N)
    gradients[[0, 1, 4]] = 1.0
    out = refine(rules, jax.random.key(0), gaussians, ACTIVE, seen(gradients))
    np.testing.assert_array_equal(np.flatnonzero(out.active), [0, 1, 2, 3, 5, 6, 7])
    np.testing.assert_array_equal(np.flatnonzero(out.fresh), [1])
    np.testing.assert_array_equal(out.gaussians.means[1], gaussians.means[0])


def test_nothing_happens_without_statistics(refine):
    gaussians = scene()
    out = refine(RULES, jax.random.key(0), gaussians, ACTIVE, RULES.init_statistics(N))
    np.testing.assert_array_equal(out.active, ACTIVE)
    jax.tree.map(np.testing.assert_array_equal, out.gaussians, gaussians)


def test_statistics_are_means_over_the_views_that_saw_a_gaussian():
    gradients = jnp.zeros((2, N, 2)).at[0, 0].set(jnp.array([3.0, 4.0])).at[1, 1].set(1.0)
    visible = jnp.zeros((2, N), bool).at[0, 0].set(True)
    out = RULES.accumulate(RULES.init_statistics(N), gradients, visible, width=10, height=10)
    # Half the image is 5 pixels, and the loss is a mean over two views: 5 * 5 * 2.
    np.testing.assert_allclose(out.gradients[:2], [50.0, 0.0])
    np.testing.assert_allclose(out.counts[:2], [1.0, 0.0])


def test_opacity_reset_only_lowers():
    logits = RULES.reset_opacities(jnp.array([5.0, -9.0]))
    np.testing.assert_allclose(jax.nn.sigmoid(logits), [0.01, jax.nn.sigmoid(-9.0)], rtol=1e-4)


def test_resets_come_at_multiples_of_their_period():
    every = DefaultStrategy(reset_every=30)
    assert [step for step in range(100) if every.resets_opacities(step)] == [30, 60, 90]
    assert not any(RULES.resets_opacities(step) for step in range(100))


def test_refinement_demands_statistics():
    with pytest.raises(ValueError, match="no statistics"):
        RULES.refine(jax.random.key(0), scene(), ACTIVE, None)
