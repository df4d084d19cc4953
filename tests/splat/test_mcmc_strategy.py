"""The strategy as a Markov chain: shares of one gaussian, who moves where, counts, noise and regularisers."""

import importlib.util
import math
import pathlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splat import Gaussians
from splat.strategies import DefaultStrategy, McmcStrategy, mcmc


_path = pathlib.Path(__file__).with_name("reference.py")
_spec = importlib.util.spec_from_file_location("splat_reference_mcmc", _path)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

N = 64
RULES = McmcStrategy()


def scene(opacities=0.5):
    rng = np.random.default_rng(0)
    opacities = np.broadcast_to(np.asarray(opacities, np.float64), (N,))
    return Gaussians(
        means=jnp.asarray(rng.normal(size=(N, 3)), jnp.float32),
        quats=jnp.asarray(rng.normal(size=(N, 4)), jnp.float32),
        log_scales=jnp.asarray(rng.normal(-2, 0.5, (N, 3)), jnp.float32),
        opacity_logits=jnp.asarray(np.log(opacities) - np.log1p(-opacities), jnp.float32),
        sh=jnp.asarray(rng.normal(size=(N, 1, 3)), jnp.float32),
    )


@pytest.fixture(scope="module")
def share():
    return jax.jit(mcmc.share)


@pytest.fixture(scope="module")
def relocate():
    return jax.jit(McmcStrategy.relocate, static_argnums=0)


@pytest.fixture(scope="module")
def grow():
    return jax.jit(McmcStrategy.grow, static_argnums=0)


@pytest.fixture(scope="module")
def perturb():
    return jax.jit(McmcStrategy.perturb, static_argnums=0)


def equation_9(opacity, copies):
    """A copy's opacity and the factor of its scale by the paper's double sum, in rational numbers."""
    each = 1 - (1 - opacity) ** (1 / copies)
    exact = Fraction(each)
    total = 0.0
    for k in range(copies):  # the integers of one k are added exactly: only the roots are rounded
        ways = sum(math.comb(i - 1, k) for i in range(k + 1, copies + 1))
        total += Fraction((-1) ** k * ways) * exact ** (k + 1) / Fraction(math.sqrt(k + 1))
    return each, opacity / float(total)


def test_shares_equal_the_binomial_sum(share):
    opacities, copies = np.meshgrid([0.006, 0.1, 0.5, 0.9, 0.99, 0.999], [1, 2, 3, 7, 20, 35, 51])
    opacities, copies = opacities.ravel(), copies.ravel()
    logits = (np.log(opacities) - np.log1p(-opacities)).astype(np.float32)
    opacities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    found = share(jnp.asarray(logits), jnp.asarray(copies))
    pairs = zip(opacities, copies, strict=True)
    expected = np.array([equation_9(float(o), int(n)) for o, n in pairs])
    np.testing.assert_allclose(jax.nn.sigmoid(found.opacity_logits), expected[:, 0], rtol=3e-6)
    np.testing.assert_allclose(jnp.exp(found.log_scale_shift), expected[:, 1], rtol=3e-6)
    one = copies == 1
    np.testing.assert_array_equal(found.opacity_logits[one], logits[one])
    assert not found.log_scale_shift[one].any()


def test_copies_keep_the_integral_of_the_opacity(share):
    """What the factor stands for, by integration: along a line, n copies cover what one gaussian covered."""
    line = np.linspace(-12, 12, 4801)
    for opacity, copies in ((0.3, 2), (0.9, 5), (0.999, 300)):
        found = share(jnp.full(42, math.log(opacity / (1 - opacity))), jnp.full(42, copies))
        each = 1 / (1 + np.exp(-float(found.opacity_logits[0])))
        width = math.exp(float(found.log_scale_shift[0]))
        together = 1 - (1 - each * np.exp(-0.5 * (line / width) ** 2)) ** copies
        np.testing.assert_allclose(together.sum(), (opacity * np.exp(-0.5 * line**2)).sum(), rtol=1e-5)


def test_shares_stay_finite_at_extremes(share):
    logits, copies = np.meshgrid([-3e38, -200, -20, 20, 200, 3e38], [1, 2, 51, 10**6, 2**31 - 1, 3, 4])
    found = share(jnp.asarray(logits.ravel(), jnp.float32), jnp.asarray(copies.ravel()))
    assert np.isfinite(found.opacity_logits).all() and np.isfinite(found.log_scale_shift).all()


@pytest.mark.parity
def test_shares_equal_gsplats_kernel(share):
    """gsplat's relocation exists in CUDA only: its loop, term by term, in torch float64 with its table."""
    torch = pytest.importorskip("torch")
    strategy = pytest.importorskip("gsplat").MCMCStrategy
    binoms = strategy().initialize_state()["binoms"].double()
    rng = np.random.default_rng(1)
    logits, copies = rng.normal(0, 3, 42).astype(np.float32), rng.integers(1, 30, 42)
    opacities = torch.sigmoid(torch.tensor(logits).double())
    each = 1 - (1 - opacities) ** (1 / torch.tensor(copies))
    total = torch.zeros(42, dtype=torch.float64)
    for row, n in enumerate(copies):
        for i in range(1, n + 1):
            k = torch.arange(i)
            signs = 1 - 2 * (k % 2)
            total[row] += (binoms[i - 1, :i] * signs / torch.sqrt(k + 1.0) * each[row] ** (k + 1)).sum()
    found = share(jnp.asarray(logits), jnp.asarray(copies))
    np.testing.assert_allclose(jax.nn.sigmoid(found.opacity_logits), each.numpy(), rtol=3e-6)
    np.testing.assert_allclose(jnp.exp(found.log_scale_shift), (opacities / total).numpy(), rtol=1e-5)


def test_the_dead_move_onto_the_living(relocate):
    opacities = np.full(N, 0.5)
    opacities[40:60] = 0.004
    opacities[:40] = np.linspace(0.01, 0.99, 40)
    active = jnp.arange(N) < 60
    before = scene(opacities)
    out = relocate(RULES, jax.random.key(0), before, active)
    np.testing.assert_array_equal(out.active, active)
    places = np.asarray(before.means)
    origin = np.array([np.flatnonzero((places == place).all(-1))[0] for place in np.asarray(out.gaussians.means)])
    assert (origin[40:60] < 40).all()  # neither a dead row nor one that is not active
    np.testing.assert_array_equal(np.delete(origin, np.s_[40:60]), np.delete(np.arange(N), np.s_[40:60]))
    copies = np.bincount(origin[:60], minlength=N)
    np.testing.assert_array_equal(out.fresh, (copies[origin] > 1) & np.asarray(active))
    for name in ("quats", "sh"):
        np.testing.assert_array_equal(getattr(out.gaussians, name), np.asarray(getattr(before, name))[origin])
    expected = np.array([equation_9(opacities[o], int(max(copies[o], 1))) for o in origin[:60]])
    np.testing.assert_allclose(out.gaussians.opacities[:60], np.maximum(expected[:, 0], 0.005), rtol=1e-5)
    shift = np.asarray(out.gaussians.log_scales - before.log_scales[origin])[:60]
    np.testing.assert_allclose(shift, np.log(expected[:, 1])[:, None].repeat(3, 1), atol=1e-5)
    unchanged = ~np.asarray(out.fresh)
    for now, then in zip(jax.tree.leaves(out.gaussians), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(now[unchanged], then[unchanged])
    again = relocate(RULES, jax.random.key(0), before, active)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(again), strict=True))
    other = relocate(RULES, jax.random.key(1), before, active)
    assert not np.array_equal(out.gaussians.means, other.gaussians.means)


def test_draws_follow_the_weights():
    weights = np.zeros(5000, np.float32)
    weights[[3, 100, 4000, 4999]] = 0.006, 0.2, 0.4, 0.994
    drawn = np.concatenate([mcmc._draw(jax.random.key(seed), jnp.asarray(weights)) for seed in range(20)])
    counts = np.bincount(drawn, minlength=5000)
    expected = drawn.size * weights / weights.sum()
    assert (counts[weights == 0] == 0).all()
    spread = np.sqrt(np.maximum(expected, 1.0))
    assert (np.abs(counts - expected) < 4 * spread).all()


def test_broken_gaussians_move_and_are_never_copied(relocate):
    before = scene()
    before = before.replace(
        means=before.means.at[3, 1].set(jnp.nan),
        log_scales=before.log_scales.at[7, 0].set(jnp.inf),
        opacity_logits=before.opacity_logits.at[9].set(jnp.nan).at[11].set(jnp.inf).at[12].set(90.0),
    )
    out = relocate(RULES, jax.random.key(2), before, jnp.ones(N, bool))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out.gaussians))
    assert np.asarray(out.fresh)[[3, 7, 9, 11]].all()


def test_nothing_moves_where_nothing_lives(relocate, grow):
    for active in (jnp.ones(N, bool), jnp.zeros(N, bool)):
        before = scene(0.001)
        for step in (relocate, grow):
            out = step(RULES, jax.random.key(0), before, active)
            np.testing.assert_array_equal(out.active, active)
            assert not out.fresh.any()
            np.testing.assert_array_equal(out.gaussians.means, before.means)


@pytest.mark.parametrize(
    ("cap", "start", "expected"),
    [(None, 40, 42), (None, 63, 64), (None, 19, 19), (41, 40, 41), (41, 60, 60), (None, 64, 64)],
)
def test_growth_by_a_share_up_to_cap_and_capacity(grow, cap, start, expected):
    active = jnp.asarray(np.random.default_rng(start).permutation(N) < start)
    before = scene()
    out = grow(McmcStrategy(cap=cap), jax.random.key(4), before, active)
    assert int(out.active.sum()) == expected and bool((out.active | ~active).all())
    born = np.flatnonzero(out.active & ~active)
    np.testing.assert_array_equal(born, np.flatnonzero(~active)[: expected - start])
    assert np.asarray(out.fresh)[born].all() and int(out.fresh.sum()) <= 2 * len(born)
    old = np.asarray(before.means)[np.asarray(active)]
    assert all((old == place).all(-1).any() for place in np.asarray(out.gaussians.means)[born])


def image_along_z(gaussians, active, size=32):
    """Colours [size, size, 3] of a parallel view, composited densely in float64 without the library."""
    means, quats, log_scales, logits, sh = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gaussians))
    axis = np.linspace(-1, 1, size)
    pixels = np.stack(np.meshgrid(axis, axis), -1)
    colour, light = np.zeros((size, size, 3)), np.ones((size, size, 1))
    for i in np.argsort(means[:, 2], kind="stable"):
        if active[i]:
            w, x, y, z = quats[i] / np.linalg.norm(quats[i])
            rotation = np.array(
                [
                    [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                ]
            )
            offset = pixels - means[i, :2]
            weight = np.linalg.inv((rotation * np.exp(2 * log_scales[i])) @ rotation.T)
            falloff = np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", offset, weight, offset))
            alpha = (falloff / (1 + np.exp(-logits[i])))[..., None]
            colour += light * alpha * (0.5 + 0.2820948 * sh[i, 0])
            light *= 1 - alpha
    return colour


def test_relocation_and_growth_hardly_change_the_image():
    means, quats, scales, opacities, colors = reference.torus(N, seed=2)
    opacities[50:60] = 0.003  # dead; the last four rows are free
    gaussians = Gaussians(
        *(
            jnp.asarray(a, jnp.float32)
            for a in (
                means,
                quats,
                np.log(scales),
                np.log(opacities / (1 - opacities)),
                (colors[:, None] - 0.5) / 0.2820948,
            )
        )
    )
    active = jnp.arange(N) < 60
    out = RULES.refine(jax.random.key(0), gaussians, active)
    assert int(out.active.sum()) == 63 and int(out.fresh.sum()) > 13
    # The same copies without their shares: what a strategy that only duplicates would do.
    distances = np.abs(np.asarray(out.gaussians.means)[:, None] - np.asarray(gaussians.means)[None]).sum(-1)
    copied = jax.tree.map(lambda leaf: leaf[distances.argmin(-1)], gaussians)
    before = image_along_z(gaussians, active)
    error = np.abs(image_along_z(out.gaussians, out.active) - before).mean()
    naive = np.abs(image_along_z(copied, out.active) - before).mean()
    assert error < 0.01 and error < 0.3 * naive, (error, naive)


def test_noise_has_the_covariance_squared(perturb):
    before = scene(0.005)  # half of the gate
    before = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), before)
    keys = [jax.random.key(i) for i in range(100)]
    shifts = np.concatenate([perturb(RULES, k, before, 1e-3) - before.means for k in keys]).astype(np.float64)
    rotation = np.asarray(reference.rotation_of(before.quats[0]), np.float64)
    covariance = rotation @ np.diag(np.exp(2 * np.asarray(before.log_scales[0], np.float64))) @ rotation.T
    white = np.linalg.solve(0.5 * 1e-3 * 5e5 * covariance, shifts.T).T
    assert np.abs(white.mean(0)).max() < 4 / math.sqrt(len(white))
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=0.07)


@pytest.mark.parity
def test_the_gate_of_the_noise_is_gsplats(perturb):
    """The same draw through gsplat's formula: op_sigmoid(1 - opacity), k = 100, x0 = 0.995, in float64."""
    torch = pytest.importorskip("torch")
    covariance_of = pytest.importorskip("gsplat.cuda._torch_impl")._quat_scale_to_covar_preci
    opacities = np.concatenate([np.linspace(0.0005, 0.06, N - 2), [0.3, 0.9]])
    before, key = scene(opacities), jax.random.key(5)
    quats = torch.nn.functional.normalize(torch.tensor(np.array(before.quats, np.float64)), dim=-1)
    scales = torch.exp(torch.tensor(np.array(before.log_scales, np.float64)))
    covariances = covariance_of(quats, scales, compute_preci=False)[0].numpy()
    gate = 1 / (1 + np.exp(-100 * (1 - opacities - 0.995)))
    eta = np.asarray(jax.random.normal(key, (N, 3)), np.float64) * gate[:, None] * 1.6e-4 * 5e5
    expected = np.einsum("nij,nj->ni", covariances, eta)
    shift = perturb(RULES, key, before, 1.6e-4) - before.means
    np.testing.assert_allclose(shift, expected, rtol=2e-3, atol=2e-6)


def test_noise_never_makes_a_mean_infinite(perturb):
    before = scene()
    before = before.replace(
        log_scales=before.log_scales.at[0].set(80.0).at[1].set(jnp.nan),
        opacity_logits=before.opacity_logits.at[2].set(jnp.inf).at[3].set(-jnp.inf).at[4].set(3e38),
        quats=before.quats.at[5].set(0.0),
    )
    moved = perturb(RULES, jax.random.key(0), before, 1e-3)
    assert np.isfinite(moved).all()
    np.testing.assert_array_equal(moved[np.array([0, 1, 2, 4])], before.means[np.array([0, 1, 2, 4])])


def test_regularizer_values_and_gradients():
    opacities = np.linspace(0.01, 0.9, N)
    gaussians = scene(opacities)
    active = jnp.arange(N) < 20
    regularize = jax.jit(jax.value_and_grad(RULES.regularizer))
    value, gradients = regularize(gaussians, active)
    scales = np.exp(np.asarray(gaussians.log_scales, np.float64))[:20]
    np.testing.assert_allclose(value, 0.01 * opacities[:20].mean() + 0.01 * scales.mean(), rtol=1e-5)
    slope = opacities * (1 - opacities) * 0.01 / 20
    np.testing.assert_allclose(gradients.opacity_logits, np.where(active, slope, 0), rtol=1e-4)
    np.testing.assert_allclose(gradients.log_scales[:20], 0.01 * scales / 60, rtol=1e-5)
    assert not gradients.log_scales[20:].any() and not gradients.means.any()
    broken = gaussians.replace(log_scales=gaussians.log_scales.at[30].set(jnp.nan).at[2].set(3e38))
    value, gradients = regularize(broken, active)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradients)))
    assert float(RULES.regularizer(gaussians, active & False)) == 0.0


def test_rules_are_checked():
    for wrong in ({"cap": 0}, {"growth": -0.1}, {"min_opacity": 1.0}):
        with pytest.raises(ValueError, match="expected a cap"):
            McmcStrategy(**wrong)


def test_hooks_that_a_strategy_does_not_need_do_nothing():
    gaussians, active = scene(), jnp.ones(N, bool)
    default = DefaultStrategy()
    assert RULES.init_statistics(N) is None and default.init_statistics(N).counts.shape == (N,)
    assert not RULES.resets_opacities(3000)
    np.testing.assert_array_equal(RULES.reset_opacities(gaussians.opacity_logits), gaussians.opacity_logits)
    np.testing.assert_array_equal(default.perturb(jax.random.key(0), gaussians, 1.0), gaussians.means)
    assert float(default.regularizer(gaussians, active)) == 0.0
    assert (default.name, RULES.name) == ("default", "mcmc")
