"""Schedules, scalings and steps against diffusers' schedulers, step by step on random predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.diffusion import (
    DiscreteScaledLinear,
    Karras,
    convert_prediction,
    dpmpp_2m_step,
    edm_scalings,
    euler_step,
    initial_sample,
    network_input,
    network_time,
    no_history,
    schedule,
    time_grid,
    timestep_grid,
)


pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SHAPE = (2, 3, 5)
DDPM = dict(beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=1.2e-2)
# As in stable-video-diffusion-img2vid's scheduler_config.json.
SVD = DDPM | dict(
    prediction_type="v_prediction",
    timestep_type="continuous",
    use_karras_sigmas=True,
    sigma_min=0.002,
    sigma_max=700.0,
    timestep_spacing="leading",
    steps_offset=1,
)


def near(found, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    error = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
    assert error <= tolerance, error


def exact_sigmas(timesteps):
    power = np.cumprod(1 - np.linspace(8.5e-4**0.5, 1.2e-2**0.5, 1000) ** 2)
    return np.interp(np.asarray(timesteps, float), np.arange(1000), np.sqrt(1 / power - 1))


def follow(scheduler, process, grid, prediction, solver):
    """Every step of a scheduler and of ours from its own state, on the same random predictions.

    diffusers' Euler keeps x / alpha, its DPM-Solver x itself.
    """
    exploding = isinstance(scheduler, diffusers.EulerDiscreteScheduler)
    levels = schedule(grid, process)
    step = jax.jit(solver)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=SHAPE).astype(np.float32)
    unit = scheduler.config.timestep_spacing == "leading" or not exploding
    x = initial_sample(noise, grid[0], process, unit_data=unit)
    theirs = torch.from_numpy(noise) * scheduler.init_noise_sigma
    history = no_history(x)
    for i, timestep in enumerate(scheduler.timesteps):
        source, target = (jax.tree.map(lambda a, i=i: a[i], part) for part in (levels.source, levels.target))
        near(x / (source.alpha if exploding else 1), theirs, 2e-5)
        scaled = scheduler.scale_model_input(theirs, timestep)
        if exploding:
            near(network_input(x, levels.t[i], process), scaled)
        output = rng.normal(size=SHAPE).astype(np.float32)
        x0 = convert_prediction(output, x, grid[i], process, prediction, "x0")
        stepped = scheduler.step(torch.from_numpy(output), timestep, theirs)
        if exploding:
            near(x0, stepped.pred_original_sample, 2e-5)
        theirs = stepped.prev_sample
        x, history = step(x, x0, history, source, target)
        # Each step from the scheduler's own state, so that the error is that of one step.
        scale = (target.alpha if i + 1 < len(scheduler.timesteps) else 1.0) if exploding else 1.0
        near(x / scale, theirs)
        x = jnp.asarray(theirs.numpy()) * scale


# Not 1 or 2: diffusers loses four digits in a step from 700 straight to data, where ours returns the estimate.
@pytest.mark.parametrize("steps", [5, 25, 50])
def test_svd(steps):
    scheduler = diffusers.EulerDiscreteScheduler(**SVD)
    scheduler.set_timesteps(steps)
    process, grid = Karras(), time_grid(steps, last=0.0)
    np.testing.assert_allclose(process.sigma(grid[:-1]), scheduler.sigmas[:-1], rtol=1e-5)
    np.testing.assert_allclose(network_time(grid[:-1], process), scheduler.timesteps, atol=2e-6)
    np.testing.assert_allclose(initial_sample(jnp.ones(()), 1.0, process), float(scheduler.init_noise_sigma), rtol=1e-6)
    follow(scheduler, process, grid, "edm_v", euler_step)


@pytest.mark.parametrize("prediction, kind", [("epsilon", "eps"), ("v_prediction", "v")])
@pytest.mark.parametrize(
    "spacing, offset, steps", [("leading", 1, 20), ("leading", 0, 7), ("trailing", 0, 13), ("linspace", 0, 20)]
)
def test_stable_diffusion(prediction, kind, spacing, offset, steps):
    scheduler = diffusers.EulerDiscreteScheduler(
        **DDPM, prediction_type=prediction, timestep_spacing=spacing, steps_offset=offset
    )
    scheduler.set_timesteps(steps)
    process = DiscreteScaledLinear()
    grid = timestep_grid(steps, process, spacing=spacing, offset=offset)
    level = process.level(grid[:-1])
    # diffusers takes 1 - alphas_cumprod in float32, which costs digits at the first timesteps.
    np.testing.assert_allclose(level.sigma / level.alpha, scheduler.sigmas[:-1], rtol=2e-5)
    np.testing.assert_allclose(level.sigma / level.alpha, exact_sigmas(network_time(grid[:-1], process)), rtol=2e-6)
    np.testing.assert_allclose(network_time(grid[:-1], process), scheduler.timesteps, atol=1e-4)
    follow(scheduler, process, grid, kind, euler_step)


@pytest.mark.parametrize("prediction, kind", [("epsilon", "eps"), ("v_prediction", "v")])
def test_multistep(prediction, kind):
    scheduler = diffusers.DPMSolverMultistepScheduler(**DDPM, prediction_type=prediction, timestep_spacing="trailing")
    scheduler.set_timesteps(12)
    process = DiscreteScaledLinear()
    grid = timestep_grid(12, process, spacing="trailing")
    np.testing.assert_allclose(network_time(grid[:-1], process), scheduler.timesteps, atol=1e-4)
    follow(scheduler, process, grid, kind, dpmpp_2m_step)


def test_leading_is_that_of_ddim_and_pndm():
    process = DiscreteScaledLinear()
    for scheduler in (
        diffusers.DDIMScheduler(**DDPM, steps_offset=1, set_alpha_to_one=False, clip_sample=False),
        diffusers.PNDMScheduler(**DDPM, steps_offset=1, skip_prk_steps=True),
    ):
        scheduler.set_timesteps(30)
        expected = np.unique(scheduler.timesteps.numpy())[::-1]
        found = network_time(timestep_grid(30, process, spacing="leading", offset=1)[:-1], process)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_ddim_which_ends_at_its_first_level():
    scheduler = diffusers.DDIMScheduler(
        **DDPM, steps_offset=1, set_alpha_to_one=False, clip_sample=False, prediction_type="v_prediction"
    )
    scheduler.set_timesteps(10)
    process = DiscreteScaledLinear()
    grid = timestep_grid(10, process, offset=1)
    grid[-1] = 1 / process.steps
    levels = schedule(grid, process, to_data=False)
    rng = np.random.default_rng(0)
    x = rng.normal(size=SHAPE).astype(np.float32)
    for i, timestep in enumerate(scheduler.timesteps):
        output = rng.normal(size=SHAPE).astype(np.float32)
        x0 = convert_prediction(output, jnp.asarray(x), grid[i], process, "v", "x0")
        source, target = (jax.tree.map(lambda a, i=i: a[i], part) for part in (levels.source, levels.target))
        found, _ = euler_step(jnp.asarray(x), x0, no_history(x0), source, target)
        x = scheduler.step(torch.from_numpy(output), timestep, torch.from_numpy(x)).prev_sample.numpy()
        near(found, x)


@pytest.mark.parametrize("form, prediction", [("v", "v_prediction"), ("edm", "epsilon")])
@pytest.mark.parametrize("data", [0.5, 1.0])
def test_edm_scalings(form, prediction, data):
    scheduler = diffusers.EDMEulerScheduler(sigma_data=data, prediction_type=prediction, sigma_max=700.0)
    scheduler.set_timesteps(9)
    sigmas = Karras().sigma(time_grid(9, last=0.0)[:-1])
    np.testing.assert_allclose(sigmas, scheduler.sigmas[:-1], rtol=1e-5)
    rng = np.random.default_rng(0)
    x, output = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
    for sigma, noise in zip(scheduler.sigmas[:-1], scheduler.timesteps, strict=True):
        scalings = edm_scalings(sigma.numpy(), sigma_data=data, form=form)
        near(scalings.input * x, scheduler.precondition_inputs(torch.from_numpy(x), sigma))
        denoised = scheduler.precondition_outputs(torch.from_numpy(x), torch.from_numpy(output), sigma)
        near(scalings.skip * x + scalings.out * output, denoised)
        np.testing.assert_allclose(scalings.noise, noise, atol=1e-6)


def test_multistep_on_the_sigmas_of_svd():
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.002, sigma_max=700.0, sigma_data=1.0, prediction_type="v_prediction", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(20)
    process, grid = Karras(), time_grid(20, last=0.0)
    levels = schedule(grid, process)
    rng = np.random.default_rng(0)
    x = 700 * rng.normal(size=SHAPE).astype(np.float32)
    history = no_history(jnp.asarray(x))
    for i, timestep in enumerate(scheduler.timesteps):
        output = rng.normal(size=SHAPE).astype(np.float32)
        x0 = convert_prediction(output, jnp.asarray(x), grid[i], process, "edm_v", "x0")
        source, target = (jax.tree.map(lambda a, i=i: a[i], part) for part in (levels.source, levels.target))
        found, history = dpmpp_2m_step(jnp.asarray(x), x0, history, source, target)
        x = scheduler.step(torch.from_numpy(output), timestep, torch.from_numpy(x)).prev_sample.numpy()
        near(found, x)
