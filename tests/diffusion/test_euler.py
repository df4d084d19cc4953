"""The Euler step: closed forms, its order, its edges, and what stands around it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.diffusion import (
    Cosine,
    DiscreteScaledLinear,
    Karras,
    Level,
    ScaledLinear,
    convert_prediction,
    dpmpp_2m_step,
    edm_scalings,
    euler_step,
    init_state,
    initial_sample,
    network_input,
    network_time,
    no_history,
    precondition,
    sample_loop,
    sample_scan,
    sampler_step,
    schedule,
    time_grid,
    timestep_grid,
)


def level(alpha, sigma):
    with np.errstate(divide="ignore"):
        return Level(*(jnp.float32(v) for v in (alpha, sigma, np.log(np.float64(alpha)) - np.log(np.float64(sigma)))))


def test_is_the_multistep_solver_without_history():
    rng = np.random.default_rng(0)
    x, x0 = (jnp.asarray(rng.normal(size=(2, 5)), jnp.float32) for _ in range(2))
    for source, target in [((0.3, 0.9), (0.6, 0.7)), ((1, 700), (1, 545)), ((0, 1), (0.1, 0.99)), ((0.9, 0.4), (1, 0))]:
        ours, history = euler_step(x, x0, no_history(x), level(*source), level(*target))
        theirs, other = dpmpp_2m_step(x, x0, no_history(x), level(*source), level(*target))
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)
        jax.tree.map(np.testing.assert_array_equal, history, other)


def test_edges_are_exact():
    x, x0 = jnp.float32([[2.0, -3.0]]), jnp.float32([[0.1, 0.7]])
    into_data, _ = euler_step(x, x0, no_history(x), level(1, 700), level(1, 0))
    np.testing.assert_array_equal(into_data, x0)
    out_of_noise, _ = euler_step(x, x0, no_history(x), level(0, 1), level(0.6, 0.8))
    np.testing.assert_allclose(out_of_noise, 0.8 * x + 0.6 * x0, rtol=1e-6)
    bf16, _ = euler_step(x.astype(jnp.bfloat16), x0.astype(jnp.bfloat16), no_history(x), level(1, 2), level(1, 1))
    assert bf16.dtype == jnp.bfloat16


def gaussian(process):
    """The exact denoiser of data N(0, 0.25), whose trajectories scale with sqrt(0.25 alpha² + sigma²)."""

    def denoise(x, t, index):
        level = process.level(t)
        return 0.25 * level.alpha / (0.25 * level.alpha**2 + level.sigma**2) * x

    return denoise


@pytest.mark.parametrize("process", [Karras(0.02, 20.0), DiscreteScaledLinear()])
def test_order_one(process):
    x = jnp.float32([[1.0, -2.0]])
    start, stop = 0.9, 0.2
    first, last = (process.level(jnp.float32(t)) for t in (start, stop))
    power = [0.25 * part.alpha**2 + part.sigma**2 for part in (first, last)]
    exact = x * jnp.sqrt(power[1] / power[0])
    sample = functools.partial(
        jax.jit(sample_scan, static_argnums=(0, 3), static_argnames=("solver", "to_data")), gaussian(process)
    )
    errors = []
    for steps in (20, 40, 80):
        grid = np.linspace(start, stop, steps + 1).astype(np.float32)
        found = sample(x, grid, process, solver=euler_step, to_data=False)
        errors.append(float(jnp.abs(found - exact).max()))
    ratios = [a / b for a, b in zip(errors, errors[1:], strict=False)]
    assert all(1.8 < ratio < 2.2 for ratio in ratios), (errors, ratios)


def test_loop_equals_scan():
    process = Karras()
    grid = time_grid(6, last=0.0)
    x = initial_sample(jax.random.normal(jax.random.key(0), (2, 3)), 1.0, process)
    step = jax.jit(functools.partial(sampler_step, gaussian(process), solver=euler_step))
    looped = sample_loop(step, x, grid, process)
    scanned = jax.jit(lambda x: sample_scan(gaussian(process), x, grid, process, solver=euler_step))(x)
    np.testing.assert_allclose(looped, scanned, rtol=1e-6)
    assert init_state(x).history.x0.shape == x.shape


def test_initial_samples():
    noise = jnp.ones((1, 2))
    np.testing.assert_allclose(initial_sample(noise, 1.0, Karras())[0, 0], 700.00071, rtol=1e-6)
    np.testing.assert_array_equal(initial_sample(noise, 1.0, Karras(), unit_data=False)[0, 0], Karras().sigma(1.0))
    np.testing.assert_allclose(initial_sample(noise, 1.0, DiscreteScaledLinear()), noise, rtol=1e-6)
    assert initial_sample(noise.astype(jnp.bfloat16), 1.0, Karras()).dtype == jnp.bfloat16


def test_svd_levels_as_published():
    process = Karras()
    grid = time_grid(25, last=0.0)
    levels = schedule(grid, process)
    np.testing.assert_allclose(levels.source.sigma[:3], [700, 545.73, 421.57], rtol=2e-5)
    np.testing.assert_allclose(levels.source.sigma[-1], 0.002, rtol=1e-5)
    np.testing.assert_allclose(network_time(grid[[0, 1, 24]], process), [1.6378, 1.5756, -1.5537], atol=1e-4)


def test_edm_network_output_is_the_kind_edm_v():
    process, t = Karras(), np.float32(0.6)
    rng = np.random.default_rng(0)
    x, output = (jnp.asarray(rng.normal(size=(2, 4)), jnp.float32) for _ in range(2))
    scalings = edm_scalings(process.sigma(t))
    np.testing.assert_allclose(network_input(x, t, process), scalings.input * x, rtol=1e-6)
    np.testing.assert_allclose(network_time(t, process), scalings.noise, rtol=1e-5)
    expected = scalings.skip * x + scalings.out * output
    np.testing.assert_allclose(convert_prediction(output, x, t, process, "edm_v", "x0"), expected, rtol=1e-5, atol=1e-6)


def test_preconditioned_networks_see_their_own_units():
    x = 3 * jnp.ones((2, 4))
    seen = precondition(lambda x, time: x + time, DiscreteScaledLinear())(x, jnp.float32(0.5), 0)
    np.testing.assert_allclose(seen, x + 499, rtol=1e-6)
    seen = precondition(lambda x, time: (x, time), Karras())(x, jnp.float32(1.0), 0)
    np.testing.assert_allclose(seen[0], x / 700.0007, rtol=1e-6)
    # The network's timesteps are those of the table also where its terminal SNR is zero.
    np.testing.assert_allclose(network_time(np.float32([0.001, 1]), ScaledLinear()), [0, 999], atol=1e-4)
    with pytest.raises(TypeError, match="Cosine has no network time"):
        network_time(0.5, Cosine())


def test_discrete_process():
    process = DiscreteScaledLinear()
    power = np.cumprod(1 - np.linspace(8.5e-4**0.5, 1.2e-2**0.5, 1000) ** 2)
    level = process.level(np.float32((np.arange(1000) + 1) / 1000))
    np.testing.assert_allclose(level.alpha, np.sqrt(power), rtol=3e-6)
    np.testing.assert_allclose(level.sigma, np.sqrt(1 - power), rtol=3e-6)
    np.testing.assert_allclose(level.log_snr, 0.5 * np.log(power / (1 - power)), atol=5e-6)
    clean = process.level(0.0)
    assert float(clean.alpha) == 1 and float(clean.sigma) == 0 and float(clean.log_snr) == np.inf
    t = np.linspace(0.001, 1, 37).astype(np.float32)
    np.testing.assert_allclose(process.t_of_lambda(process.log_snr(t)), t, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="beta0=0.5, beta1=0.1"):
        DiscreteScaledLinear(0.5, 0.1)


def test_timestep_grids():
    process = DiscreteScaledLinear()
    steps = lambda grid: np.round(np.asarray(process.timestep(grid[:-1])), 2).tolist()  # noqa: E731
    assert steps(timestep_grid(4, process, spacing="leading", offset=1)) == [751, 501, 251, 1]
    assert steps(timestep_grid(4, process, spacing="trailing")) == [999, 749, 499, 249]
    assert steps(timestep_grid(3, process, spacing="linspace")) == [999, 499.5, 0]
    assert steps(timestep_grid(3, process, spacing="trailing")) == [999, 666, 332]
    assert timestep_grid(5, process)[-1] == 0 and timestep_grid(5, process).dtype == np.float32


def test_timesteps_that_there_are_not(unchecked):
    process = DiscreteScaledLinear()
    for wrong, message in [
        (dict(steps=0), "1 to 1000 evaluations, got steps=0"),
        (dict(steps=1000, offset=1), "reach timestep 1000, but the last is 999"),
        (dict(steps=10, spacing="karras"), "unknown spacing 'karras'"),
    ]:
        with pytest.raises(ValueError, match=message):
            timestep_grid(process=process, **wrong)
