"""Noise processes against closed forms, published tables and their own inverses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.diffusion import Cosine, Karras, ScaledLinear, add_noise, time_grid


PROCESSES = [Cosine(), Cosine(shift=-0.7), ScaledLinear(), ScaledLinear(zero_terminal_snr=False), Karras()]
ZERO_SNR = [Cosine(), Cosine(shift=-0.7), ScaledLinear()]


@pytest.mark.parametrize("shift", [0.0, -0.7, 1.3])
def test_cosine_closed_form(shift):
    t = np.linspace(0.01, 0.99, 37)
    level = Cosine(shift).level(t)
    log_snr = -np.log(np.tan(np.pi * t / 2)) + shift
    np.testing.assert_allclose(level.log_snr, log_snr, atol=2e-5)
    np.testing.assert_allclose(level.alpha, 1 / np.sqrt(1 + np.exp(-2 * log_snr)), atol=1e-6)
    np.testing.assert_allclose(level.sigma, 1 / np.sqrt(1 + np.exp(2 * log_snr)), atol=1e-6)
    if shift == 0.0:
        np.testing.assert_allclose(level.alpha, np.cos(np.pi * t / 2), atol=1e-6)


@pytest.mark.parametrize("process", ZERO_SNR, ids=repr)
def test_terminal_snr_is_exactly_zero(process):
    level = process.level(1.0)
    assert (level.alpha, level.sigma, level.log_snr) == (0.0, 1.0, -jnp.inf)
    level = process.level(0.0)
    assert (level.alpha, level.sigma, level.log_snr) == (1.0, 0.0, jnp.inf)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_scales_agree_with_log_snr(process):
    t = np.linspace(0.002, 0.998, 101)
    level = process.level(t)
    assert np.all(np.diff(level.log_snr) < 0)
    np.testing.assert_allclose(np.log(level.alpha / level.sigma), level.log_snr, atol=2e-5)
    if not isinstance(process, Karras):
        np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1, atol=1e-6)
    np.testing.assert_array_equal(process.alpha(t), level.alpha)
    np.testing.assert_array_equal(process.sigma(t), level.sigma)
    np.testing.assert_array_equal(process.log_snr(t), level.log_snr)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_lambda_inverts_time(process):
    t = np.linspace(0.002, 0.998, 101)
    level = process.level(t)
    np.testing.assert_allclose(process.t_of_lambda(level.log_snr), t, atol=1e-5)
    again = process.level_of_lambda(level.log_snr)
    np.testing.assert_allclose(again.alpha, level.alpha, rtol=1e-5)
    np.testing.assert_allclose(again.sigma, level.sigma, rtol=1e-5)


@pytest.mark.parametrize("process", ZERO_SNR, ids=repr)
def test_lambda_inverts_time_at_the_ends(process):
    ends = process.t_of_lambda(jnp.array([jnp.inf, -jnp.inf]))
    np.testing.assert_allclose(ends, [0.0, 1.0], atol=1e-7)
    level = process.level_of_lambda(-jnp.inf)
    assert (level.alpha, level.sigma) == (0.0, 1.0)


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_scaled_linear_table(zero_terminal_snr):
    """The betas' running product, rescaled in beta space as the published algorithm is written."""
    betas = np.linspace(8.5e-4**0.5, 1.2e-2**0.5, 1000) ** 2
    alphas_bar_sqrt = np.cumprod(1 - betas) ** 0.5
    if zero_terminal_snr:
        first, last = alphas_bar_sqrt[0], alphas_bar_sqrt[-1]
        alphas_bar_sqrt = (alphas_bar_sqrt - last) * (first / (first - last))
    else:
        np.testing.assert_allclose(alphas_bar_sqrt[-1] ** 2, 0.0047, atol=5e-5)
    t = (np.arange(1000) + 1) / 1000
    level = ScaledLinear(zero_terminal_snr=zero_terminal_snr).level(t)
    np.testing.assert_allclose(level.alpha, alphas_bar_sqrt, atol=1e-6)
    np.testing.assert_allclose(level.sigma, np.sqrt(1 - alphas_bar_sqrt**2), atol=1e-6)


def test_karras_grid_of_svd():
    """Sigmas 700, 545.73, 421.57, …, 0.002 for 25 steps: the grid that SVD's scheduler uses."""
    process = Karras()
    sigma = np.asarray(process.sigma(time_grid(25, last=0.0)[:-1]))
    assert sigma.shape == (25,)
    np.testing.assert_allclose(sigma[:3], [700, 545.73, 421.57], rtol=2e-5)
    np.testing.assert_allclose(sigma[-1], 0.002, rtol=1e-5)
    assert process.alpha(0.3) == 1


def test_processes_are_static_under_jit():
    traces = []

    @jax.jit
    def sigma(process, t):
        traces.append(process)
        return process.sigma(t)

    sigma(Cosine(), 0.5), sigma(Cosine(), 0.25), sigma(Cosine(0.1), 0.5)
    assert len(traces) == 2
    assert jax.tree.leaves(ScaledLinear()) == [] and hash(Karras()) == hash(Karras())


def test_add_noise_per_sample():
    x0, noise = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    t = np.array([0.0, 0.4, 1.0], np.float32)
    x = add_noise(jnp.asarray(x0), jnp.asarray(noise), t, Cosine())
    expected = np.cos(np.pi * t / 2)[:, None, None] * x0 + np.sin(np.pi * t / 2)[:, None, None] * noise
    np.testing.assert_allclose(x, expected, atol=1e-6)
    np.testing.assert_array_equal(x[0], x0[0])
    np.testing.assert_array_equal(x[2], noise[2])
    half = add_noise(jnp.asarray(x0, jnp.bfloat16), jnp.asarray(noise, jnp.bfloat16), 0.4, Cosine())
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Cosine(shift=float("nan")), "finite"),
        (lambda: ScaledLinear(beta0=0.5, beta1=0.1), "beta0 <= beta1"),
        (lambda: Karras(sigma_min=2.0, sigma_max=1.0), "sigma_min < sigma_max"),
        (lambda: add_noise(jnp.zeros((2, 3)), jnp.zeros((2, 4)), 0.5, Cosine()), "does not match"),
        (lambda: add_noise(jnp.zeros(2), jnp.zeros(2), jnp.zeros(3), Cosine()), "one value for each"),
    ],
)
def test_wrong_input_is_named(make, words, unchecked):
    with pytest.raises(ValueError, match=words):
        make()
