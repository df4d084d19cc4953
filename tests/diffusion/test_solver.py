"""The solver's step: its formula against an independent form, its edges, its order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.diffusion import (
    Cosine,
    History,
    Karras,
    ScaledLinear,
    dpmpp_2m_step,
    init_state,
    no_history,
    sampler_step,
    schedule,
    time_grid,
)


@pytest.fixture(scope="module")
def arrays():
    return [jnp.asarray(a, jnp.float32) for a in np.random.default_rng(0).normal(size=(3, 2, 5))]


def sigma_space_2m(denoise, x, sigmas):
    """DPM-Solver++(2M) for alpha = 1 in float64, as it is usually written in terms of sigma alone."""
    old = None
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i])
        if sigmas[i + 1] == 0:
            return denoised
        h = np.log(sigmas[i]) - np.log(sigmas[i + 1])
        extrapolated = denoised
        if old is not None:
            r = (np.log(sigmas[i - 1]) - np.log(sigmas[i])) / h
            extrapolated = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * old
        x = sigmas[i + 1] / sigmas[i] * x - np.expm1(-h) * extrapolated
        old = denoised
    return x


@pytest.mark.parametrize("process", [Karras(sigma_max=80.0), Cosine(), ScaledLinear()], ids=repr)
def test_equals_the_sigma_space_form(process):
    """Any process is the alpha = 1 process of x / alpha; started below zero SNR, where that is defined."""
    grid = time_grid(9, start=0.9)
    x = np.random.default_rng(1).normal(size=(4, 3))
    alpha = np.asarray(process.alpha(grid), np.float64)
    sigmas = np.append((np.asarray(process.sigma(grid), np.float64) / alpha)[:-1], 0.0)

    def estimate(y, sigma):
        return np.tanh(y / (1 + sigma**2)) if isinstance(y, np.ndarray) else jnp.tanh(y / (1 + sigma**2))

    expected = sigma_space_2m(estimate, x * sigmas[0], sigmas)

    @jax.jit
    def sample(x):
        def step(state, levels):
            scale = levels.source.alpha
            ratio = levels.source.sigma / scale
            return sampler_step(lambda x, t, i: estimate(x / scale, ratio), state, levels), None

        return jax.lax.scan(step, init_state(x), schedule(grid, process))[0].x

    found = sample(jnp.asarray(x * sigmas[0] * alpha[0], jnp.float32))
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("process", [Cosine(), Cosine(shift=-1.0), ScaledLinear()], ids=repr)
def test_step_out_of_pure_noise(arrays, process):
    """x_1 = sigma_1 x_T + alpha_1 x̂, and the step after it is first order."""
    x, x0, second = arrays
    noise, first, next_level = process.level(1.0), process.level(0.8), process.level(0.6)
    x1, history = dpmpp_2m_step(x, x0, no_history(x), noise, first)
    np.testing.assert_allclose(x1, first.sigma * x + first.alpha * x0, atol=1e-6)
    with_history, _ = dpmpp_2m_step(x1, second, history, first, next_level)
    without, _ = dpmpp_2m_step(x1, second, no_history(x1), first, next_level)
    np.testing.assert_array_equal(with_history, without)
    h = next_level.log_snr - first.log_snr
    ddim = next_level.sigma / first.sigma * x1 - next_level.alpha * (np.exp(-h) - 1) * second
    np.testing.assert_allclose(without, ddim, atol=1e-6)


@pytest.mark.parametrize("process", [Cosine(), ScaledLinear()], ids=repr)
def test_step_into_clean_data_returns_the_estimate(arrays, process):
    x, x0, before = arrays
    history = History(before, process.log_snr(0.4))
    end, _ = dpmpp_2m_step(x, x0, history, process.level(0.2), process.level(0.0))
    np.testing.assert_array_equal(end, x0)


def test_one_step_from_noise_to_data_returns_the_estimate(arrays):
    x, x0, _ = arrays
    end, _ = dpmpp_2m_step(x, x0, no_history(x), Cosine().level(1.0), Cosine().level(0.0))
    np.testing.assert_array_equal(end, x0)


def test_history_matters_between_finite_levels(arrays):
    x, x0, before = arrays
    levels = [Cosine().level(t) for t in (0.6, 0.5, 0.4)]
    history = History(before, levels[0].log_snr)
    second_order, carried = dpmpp_2m_step(x, x0, history, levels[1], levels[2])
    first_order, _ = dpmpp_2m_step(x, x0, no_history(x), levels[1], levels[2])
    h, previous = levels[2].log_snr - levels[1].log_snr, levels[1].log_snr - levels[0].log_snr
    correction = levels[2].alpha * -np.expm1(-h) * h / (2 * previous) * (x0 - before)
    np.testing.assert_allclose(second_order - first_order, correction, atol=1e-6)
    np.testing.assert_array_equal(carried.x0, x0)
    assert carried.log_snr == levels[1].log_snr


def test_second_order_on_a_finite_interval():
    """Analytic Gaussian data N(m, s²): the flow is known in closed form, errors fall fourfold per halving."""
    mean, spread, process = 0.5, 0.3, Cosine()

    def exact(x, source, target):
        wide = [jnp.sqrt(level.alpha**2 * spread**2 + level.sigma**2) for level in (source, target)]
        return target.alpha * mean + wide[1] / wide[0] * (x - source.alpha * mean)

    def estimate(x, t, index):
        level = process.level(t)
        gain = level.alpha * spread**2 / (level.alpha**2 * spread**2 + level.sigma**2)
        return mean + gain * (x - level.alpha * mean)

    @jax.jit
    def run(x, grid):
        levels = schedule(grid, process, to_data=False)
        step = lambda state, row: (sampler_step(estimate, state, row), None)  # noqa: E731
        return jax.lax.scan(step, init_state(x), levels)[0].x

    with jax.enable_x64(True):
        x = jnp.linspace(-1.0, 1.0, 7)
        ends = process.log_snr(jnp.array([0.9, 0.1]))
        truth = exact(x, process.level(0.9), process.level(0.1))
        errors = []
        for steps in (320, 640, 1280):
            grid = process.t_of_lambda(jnp.linspace(ends[0], ends[1], steps + 1))
            errors.append(float(jnp.abs(run(x, grid) - truth).max()))
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert errors[-1] < 1e-6 and np.all((ratios > 3.7) & (ratios < 4.4)), (errors, ratios)


def test_bfloat16_is_kept_and_summed_in_float32(arrays):
    x, x0, before = (a.astype(jnp.bfloat16) for a in arrays)
    levels = [Cosine().level(t) for t in (0.6, 0.5, 0.4)]
    history = History(before, levels[0].log_snr)
    found, carried = dpmpp_2m_step(x, x0, history, levels[1], levels[2])
    assert found.dtype == carried.x0.dtype == jnp.bfloat16 and carried.log_snr.dtype == jnp.float32
    wide = History(before.astype(jnp.float32), levels[0].log_snr)
    exact, _ = dpmpp_2m_step(x.astype(jnp.float32), x0.astype(jnp.float32), wide, levels[1], levels[2])
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


def test_gradients_are_finite_across_the_edges(arrays):
    x, x0, _ = arrays
    levels = schedule(time_grid(3), Cosine())

    def total(scale):
        state, _ = jax.lax.scan(
            lambda s, row: (sampler_step(lambda x, t, i: scale * x + x0, s, row), None), init_state(x), levels
        )
        return state.x.sum()

    value, epsilon = jax.grad(total)(0.3), 1e-2
    numeric = (total(0.3 + epsilon) - total(0.3 - epsilon)) / (2 * epsilon)
    np.testing.assert_allclose(value, numeric, rtol=1e-2)
