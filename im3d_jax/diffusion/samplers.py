"""Samplers: the same solver step, DPM-Solver++(2M) by default, under ``lax.scan`` or under a loop on the host.

``denoise(x, t, index) -> x̂`` is any callable on samples ``x [B, …]``, a scalar float32 time ``t`` and the
scalar int32 number of the step; it returns the estimate of the clean samples. A grid of ``n + 1`` times
stands for n evaluations, at its first n entries; the last step returns the estimate itself, whatever the last
entry is.

Starting part-way (image to image) is the same call on ``add_noise(x0, noise, t0, process)`` and
``time_grid(steps, start=t0)``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from im3d_jax.diffusion.process import DiscreteScaledLinear, Level, NoiseProcess
from im3d_jax.diffusion.steps import History, dpmpp_2m_step, no_history
from im3d_jax.typing import AnyArray, LeafArray, Placeholder


Denoiser = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Grid = Sequence[float] | Float[AnyArray, " times"]
Spacing = Literal["leading", "trailing", "linspace"]
SolverStep = Callable[[jax.Array, jax.Array, History, Level, Level], tuple[jax.Array, History]]


@flax.struct.dataclass
class StepLevels:
    """What one step needs to know; with a leading axis ``[n]``, a whole schedule."""

    t: Float[LeafArray, "*times"] | Placeholder
    """Time of the evaluation."""
    source: Level
    """Level of the evaluation."""
    target: Level
    """Level that the step reaches."""


@flax.struct.dataclass
class SamplerState:
    """Where a trajectory stands between two steps."""

    x: Float[LeafArray, "*shape"] | Placeholder
    """``[B, …]`` current samples."""
    history: History
    """The evaluation before."""
    index: Int[LeafArray, "*batch"] | Placeholder
    """Scalar int32, steps done."""


def time_grid(steps: int, *, start: float = 1.0, last: float | None = None) -> Float[np.ndarray, " {steps}+1"]:
    """Evenly spaced evaluation times, ``[steps + 1]`` float32, strictly from ``start`` down, ending with 0.

    Trailing spacing (Lin et al. 2305.08891, section 3.3): the first time is ``start`` itself, so that a full
    grid includes t = 1, and the last evaluation is one spacing above 0.

    Args:
        steps: Number of evaluations, at least 1.
        start: First time, in (0, 1]; below 1 for a partial start.
        last: Time of the last evaluation, in [0, start); default start / steps. An EDM process, whose t = 0
            is sigma_min, takes 0.0 and so gives the Karras grid.
    """
    if steps < 1:
        raise ValueError(f"a sampler needs at least one step, got steps={steps}")
    if not 0 < start <= 1:
        raise ValueError(f"the start time must lie in (0, 1], got {start}")
    last = start / steps if last is None else last
    if steps > 1 and not 0 <= last < start:
        raise ValueError(f"the last evaluation must lie in [0, start={start}), got {last}")
    return np.append(np.linspace(start, last, steps), 0.0).astype(np.float32)


def timestep_grid(
    steps: int, process: DiscreteScaledLinear, *, spacing: Spacing = "leading", offset: int = 0
) -> Float[np.ndarray, " {steps}+1"]:
    """Times at which diffusers' schedulers evaluate, ``[steps + 1]`` float32, decreasing, ending with 0.

    Image-to-image starts part-way: take the tail of the grid from the wanted noise level on.

    Args:
        steps: Number of evaluations, 1..N.
        process: The schedule.
        spacing: ``leading``: multiples of N // steps from ``offset`` up (PNDM and DDIM as Stable Diffusion 1.5 and 2.1
            are configured: offset 1); ``trailing``: from N - 1 down; ``linspace``: from N - 1 to 0, fractional (Euler
            on those configurations, which name no spacing). Lin et al. 2305.08891, table 2.
        offset: Added to every timestep of ``leading``.

    Raises:
        ValueError: For an unknown spacing, or timesteps that the network does not have.
    """
    count = process.steps
    if not 1 <= steps <= count:
        raise ValueError(f"a discrete schedule of {count} timesteps allows 1 to {count} evaluations, got steps={steps}")
    if spacing == "leading":
        timesteps = np.arange(steps)[::-1] * (count // steps) + offset
    elif spacing == "trailing":
        timesteps = np.round(count - np.arange(steps) * (count / steps)) - 1
    elif spacing == "linspace":
        timesteps = np.linspace(0, count - 1, steps)[::-1]
    else:
        raise ValueError(f"unknown spacing {spacing!r}: expected leading, trailing or linspace")
    if timesteps[0] > count - 1 or timesteps[-1] < 0:
        raise ValueError(
            f"{steps} evaluations with offset={offset} reach timestep {timesteps[0]:.0f}, but the last is {count - 1}: "
            "take fewer steps or a smaller offset"
        )
    return np.append((timesteps + 1) / count, 0.0).astype(np.float32)


def schedule(grid: Grid, process: NoiseProcess, *, to_data: bool = True) -> StepLevels:
    """Levels of every step of a grid.

    Args:
        grid: ``[n + 1]`` decreasing times.
        process: The noise process.
        to_data: The last step goes to clean data (alpha = 1, sigma = 0) and so returns the estimate.
            Otherwise it goes to the level of ``grid[n]``.

    Returns:
        ``StepLevels`` with a leading axis ``[n]``.

    Raises:
        ValueError: For a grid that is not decreasing or that evaluates at sigma = 0 (concrete grids only).
    """
    if not isinstance(grid, Tracer):
        _check_grid(np.asarray(grid), process)
    return _schedule(jnp.asarray(grid), process, to_data)


@functools.partial(jax.jit, static_argnames="to_data")
def _schedule(grid: jax.Array, process: NoiseProcess, to_data: bool) -> StepLevels:
    levels = process.level(grid)
    target = jax.tree.map(lambda a: a[1:], levels)
    if to_data:
        alpha, sigma, log_snr = target.alpha, target.sigma, target.log_snr
        target = Level(alpha.at[-1].set(1.0), sigma.at[-1].set(0.0), log_snr.at[-1].set(jnp.inf))
    return StepLevels(grid[:-1], jax.tree.map(lambda a: a[:-1], levels), target)


def init_state(x: Float[AnyArray, "*shape"]) -> SamplerState:
    """State before the first step from samples ``x [B, …]`` at the grid's first level."""
    x = jnp.asarray(x)
    return SamplerState(x, no_history(x), jnp.zeros((), jnp.int32))


def sampler_step(
    denoise: Denoiser, state: SamplerState, levels: StepLevels, *, solver: SolverStep = dpmpp_2m_step
) -> SamplerState:
    """One evaluation and one update; ``levels`` holds the scalars of this step, ``solver`` may be ``euler_step``."""
    x0 = denoise(state.x, levels.t, state.index)
    if x0.shape != state.x.shape:
        raise ValueError(f"the denoiser returned shape {x0.shape} for samples of shape {state.x.shape}")
    x, history = solver(state.x, x0, state.history, levels.source, levels.target)
    return SamplerState(x, history, state.index + 1)


def sample_scan(
    denoise: Denoiser,
    x: Float[AnyArray, "*shape"],
    grid: Grid,
    process: NoiseProcess,
    *,
    solver: SolverStep = dpmpp_2m_step,
    to_data: bool = True,
) -> Float[Array, "*shape"]:
    """Samples inside one ``lax.scan``: the denoiser is traced once, dtype and sharding of ``x`` are kept.

    Meant to be called inside the caller's ``jax.jit``, which passes parameters as arguments.

    Args:
        denoise: See the module's docstring.
        x: ``[B, …]`` samples at the level of ``grid[0]``: noise times sigma(1), or the output of
            ``add_noise``.
        grid: ``[n + 1]`` decreasing times, concrete or traced.
        process: The noise process.
        solver: ``dpmpp_2m_step`` or ``euler_step``.
        to_data: See ``schedule``.

    Returns:
        ``[B, …]`` clean samples.
    """
    state, _ = jax.lax.scan(
        lambda state, levels: (sampler_step(denoise, state, levels, solver=solver), None),
        init_state(x),
        schedule(grid, process, to_data=to_data),
    )
    return state.x


def sample_loop(
    step: Callable[[SamplerState, StepLevels], SamplerState],
    start: Float[AnyArray, "..."] | SamplerState,
    grid: Grid,
    process: NoiseProcess,
    *,
    progress: Callable[[SamplerState, int], Any] | None = None,
) -> Float[Array, "..."]:
    """Samples in a loop on the host, for progress bars and interruption.

    Each step is awaited, so that Ctrl-C ends the loop between two steps with nothing left in flight; the
    states given to ``progress`` stay valid, and passing the last one as ``start`` continues from it with the
    same result.

    Args:
        step: ``sampler_step`` with its denoiser bound, jitted by the caller with parameters as arguments,
            e.g. ``functools.partial(jax.jit(lambda params, *a: sampler_step(denoiser_of(params), *a)),
            params)``. It must not donate the state.
        start: ``[B, …]`` samples at the level of ``grid[0]``, or a state to continue from.
        grid: ``[n + 1]`` decreasing concrete times, the whole grid also when continuing.
        process: The noise process.
        progress: Called after each step with the state and the number of steps n.

    Returns:
        ``[B, …]`` clean samples.
    """
    # On the host, so that a step's scalars cost no device operation of their own.
    levels = jax.device_get(schedule(grid, process))
    steps = len(levels.t)
    state = start if isinstance(start, SamplerState) else init_state(start)
    for index in range(int(state.index), steps):
        row = jax.tree.map(lambda a, index=index: a[index], levels)
        state = jax.block_until_ready(step(state, row))
        if progress is not None:
            progress(state, steps)
    return state.x


def _check_grid(grid: np.ndarray, process: NoiseProcess) -> None:
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a time grid is a vector of 2 or more times, got shape {grid.shape}; see time_grid")
    # The last entry only says where the final estimate belongs, and may repeat the one before it.
    if not (np.all(np.diff(grid[:-1]) < 0) and grid[-1] <= grid[-2] and grid[0] <= 1 and grid[-1] >= 0):
        raise ValueError(f"times must decrease strictly within [0, 1], got {grid}")
    with jax.ensure_compile_time_eval():
        clean = float(process.sigma(grid[-2])) == 0
    if clean:
        raise ValueError(
            f"the last evaluation, at t={grid[-2]}, has sigma = 0: there is nothing to denoise; "
            "end the evaluations above it"
        )
