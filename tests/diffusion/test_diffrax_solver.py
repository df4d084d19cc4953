"""The diffrax form of the solver against the scan, and its order on its own."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.diffusion import Cosine, Karras, ScaledLinear, sample_scan, time_grid
from im3d_jax.diffusion.diffrax_solver import DPMSolverPlusPlus2M, sample_diffrax


MEAN, SPREAD = 0.5, 0.3


def gaussian_estimate(process):
    def denoise(x, t, index):
        level = process.level(t)
        gain = level.alpha * SPREAD**2 / (level.alpha**2 * SPREAD**2 + level.sigma**2)
        # The step's number enters, so that a wrong one shows.
        return MEAN + gain * (x - level.alpha * MEAN) + 0.01 * index.astype(x.dtype)

    return denoise


@pytest.mark.parametrize(
    "process, start, steps",
    [
        (Cosine(), 1.0, 8),
        (ScaledLinear(), 1.0, 8),
        (ScaledLinear(zero_terminal_snr=False), 1.0, 5),
        (Karras(sigma_max=80.0), 1.0, 8),
        (Cosine(shift=-1.0), 0.5, 5),
        (Cosine(), 1.0, 3),
        (Cosine(), 1.0, 2),
        (Cosine(), 1.0, 1),
        (Cosine(), 0.5, 1),
    ],
    ids=str,
)
def test_equals_scan(process, start, steps):
    x = jax.random.normal(jax.random.key(0), (3, 4)) * process.sigma(start)
    grid, denoise = time_grid(steps, start=start), gaussian_estimate(process)
    scanned = jax.jit(lambda x: sample_scan(denoise, x, grid, process))(x)
    found = jax.jit(lambda x: sample_diffrax(denoise, x, grid, process))(x)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, scanned, atol=2e-6)


def test_bfloat16_is_kept():
    x = jax.random.normal(jax.random.key(1), (3, 4), jnp.bfloat16)
    grid, process = time_grid(5), Cosine()

    def denoise(x, t, index):
        assert x.dtype == jnp.bfloat16
        return gaussian_estimate(process)(x, t, index).astype(jnp.bfloat16)

    found = sample_diffrax(denoise, x, grid, process)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        found.astype(jnp.float32), sample_scan(denoise, x, grid, process).astype(jnp.float32), atol=0.02
    )


def test_second_order_in_lambda():
    """diffrax alone over a finite interval of lambda, against the closed form of the flow."""
    process = Cosine()

    def estimate(log_snr, x, args):
        level = process.level_of_lambda(log_snr)
        gain = level.alpha * SPREAD**2 / (level.alpha**2 * SPREAD**2 + level.sigma**2)
        return MEAN + gain * (x - level.alpha * MEAN)

    with jax.enable_x64(True):
        ends = jnp.array([-2.0, 2.0])
        source, target = process.level_of_lambda(ends[0]), process.level_of_lambda(ends[1])
        wide = [jnp.sqrt(level.alpha**2 * SPREAD**2 + level.sigma**2) for level in (source, target)]
        x = jnp.linspace(-1.0, 1.0, 5)
        truth = target.alpha * MEAN + wide[1] / wide[0] * (x - source.alpha * MEAN)
        errors = []
        for steps in (320, 640, 1280):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(estimate),
                DPMSolverPlusPlus2M(process),
                t0=-2.0,
                t1=2.0,
                dt0=None,
                y0=x,
                stepsize_controller=diffrax.StepTo(jnp.linspace(-2.0, 2.0, steps + 1)),
            )
            errors.append(float(jnp.abs(solution.ys[0] - truth).max()))
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert errors[-1] < 1e-6 and np.all((ratios > 3.7) & (ratios < 4.4)), (errors, ratios)
