"""DPM-Solver++(2M) as a diffrax solver: the engine for comparing solvers and for stored trajectories.

The independent variable is the half log-SNR lambda, which increases towards data: diffrax negates decreasing
times before a solver sees them. The term's vector field returns the denoised estimate, not a derivative; the
exponential integrator is in the step. diffrax sees only finite lambda: the step out of zero SNR and the step
into clean data run outside it, through the same ``sampler_step``.

Against ``sample_scan`` it traces the denoiser more often and may lose the sharding of the result, and it does
not work on meshes with Explicit axes: sample large batches with the scan.
"""

from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from im3d_jax.diffusion.process import NoiseProcess
from im3d_jax.diffusion.samplers import Denoiser, SamplerState, StepLevels, init_state, sampler_step, schedule
from im3d_jax.diffusion.steps import History, dpmpp_2m_step, no_history
from im3d_jax.typing import AnyArray


class DPMSolverPlusPlus2M(diffrax.AbstractSolver):
    """Second-order multistep exponential integrator in lambda (Lu et al. 2211.01095, Algorithm 2).

    The term is ``diffrax.ODETerm(lambda log_snr, x, args: x̂)``. The solver state is the ``History``.

    Attributes:
        process: The noise process that gives alpha and sigma at a lambda.
    """

    process: NoiseProcess
    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        del terms
        return 2

    def init(self, terms: Any, t0: Any, t1: Any, y0: jax.Array, args: Any) -> History:
        del terms, t0, t1, args
        return no_history(y0)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: jax.Array, args: Any, solver_state: History, made_jump: Any
    ) -> tuple[jax.Array, None, dict[str, jax.Array], History, diffrax.RESULTS]:
        del made_jump
        x0 = terms.vf(t0, y0, args)
        source, target = self.process.level_of_lambda(t0), self.process.level_of_lambda(t1)
        y1, history = dpmpp_2m_step(y0, x0, solver_state, source, target)
        return y1, None, dict(y0=y0, y1=y1), history, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: jax.Array, args: Any) -> jax.Array:
        return terms.vf(t0, y0, args)


def sample_diffrax(
    denoise: Denoiser, x: Float[AnyArray, "*shape"], grid: Float[np.ndarray, " times"], process: NoiseProcess
) -> Float[Array, "*shape"]:
    """Samples with ``diffrax.diffeqsolve``; equal to ``sample_scan`` to rounding.

    Args:
        denoise: See ``im3d_jax.diffusion.samplers``.
        x: ``[B, …]`` samples at the level of ``grid[0]``.
        grid: ``[n + 1]`` decreasing times; concrete, because what diffrax sees depends on whether it starts
            at zero SNR.
        process: The noise process.

    Returns:
        ``[B, …]`` clean samples in x's dtype.
    """
    levels = schedule(grid, process)
    steps = len(levels.t)
    with jax.ensure_compile_time_eval():
        first = 0 if np.isfinite(process.log_snr(np.asarray(grid)[0])) else 1
    state = init_state(x)
    if first and steps > 1:
        state = sampler_step(denoise, state, _row(levels, 0))
    if steps - 1 > first:
        state = _solve(denoise, state, levels, first, process)
    return sampler_step(denoise, state, _row(levels, steps - 1)).x


def _solve(
    denoise: Denoiser, state: SamplerState, levels: StepLevels, first: int, process: NoiseProcess
) -> SamplerState:
    """Integrates from the evaluation ``first`` to the level of the last one."""
    knots, times = levels.source.log_snr[first:], levels.t[first:]

    def estimate(log_snr, x, args):
        knots, times = args
        # diffrax hands over lambda alone; looking the evaluation up keeps its time exact and gives its
        # number.
        position = jnp.argmin(jnp.abs(knots - log_snr))
        # diffrax promotes the state by the dtype of its time; the network must still see its own.
        x0 = denoise(x.astype(state.x.dtype), times[position], (position + first).astype(jnp.int32))
        return x0.astype(x.dtype)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(estimate),
        DPMSolverPlusPlus2M(process),
        t0=knots[0],
        t1=knots[-1],
        dt0=None,
        y0=state.x,
        args=(knots, times),
        stepsize_controller=diffrax.StepTo(knots),
        max_steps=len(times) - 1,
        saveat=diffrax.SaveAt(t1=True),
        throw=False,
    )
    assert solution.ys is not None  # what `saveat` asks for
    x = solution.ys[0].astype(state.x.dtype)
    # Without a history: the step into clean data takes none.
    return SamplerState(x, no_history(x), jnp.asarray(first + len(times) - 1, jnp.int32))


def _row(levels: StepLevels, index: int) -> StepLevels:
    return jax.tree.map(lambda a: a[index], levels)
