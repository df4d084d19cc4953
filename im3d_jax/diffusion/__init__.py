"""Diffusion as pure functions over a denoiser: processes, predictions, guidance, solver steps, samplers.

The diffrax form of the solver is in ``im3d_jax.diffusion.diffrax_solver``, imported only where it is wanted.
"""

from im3d_jax.diffusion.guidance import (
    Guidance,
    frame_guided_denoiser,
    frame_scales,
    guide,
    guided_denoiser,
    network_evaluations,
    rescale_guidance,
    stack_conditions,
)
from im3d_jax.diffusion.preconditioning import edm_scalings, network_input, network_time, precondition
from im3d_jax.diffusion.prediction import Prediction, convert_prediction, prediction_target
from im3d_jax.diffusion.process import (
    Cosine,
    DiscreteScaledLinear,
    Karras,
    Level,
    NoiseProcess,
    ScaledLinear,
    add_noise,
    initial_sample,
)
from im3d_jax.diffusion.samplers import (
    Denoiser,
    SamplerState,
    SolverStep,
    StepLevels,
    init_state,
    sample_loop,
    sample_scan,
    sampler_step,
    schedule,
    time_grid,
    timestep_grid,
)
from im3d_jax.diffusion.steps import History, dpmpp_2m_step, euler_step, no_history


__all__ = [
    "Cosine",
    "Denoiser",
    "DiscreteScaledLinear",
    "Guidance",
    "History",
    "Karras",
    "Level",
    "NoiseProcess",
    "Prediction",
    "SamplerState",
    "ScaledLinear",
    "SolverStep",
    "StepLevels",
    "add_noise",
    "convert_prediction",
    "dpmpp_2m_step",
    "edm_scalings",
    "euler_step",
    "frame_guided_denoiser",
    "frame_scales",
    "guide",
    "guided_denoiser",
    "init_state",
    "initial_sample",
    "network_evaluations",
    "network_input",
    "network_time",
    "no_history",
    "precondition",
    "prediction_target",
    "rescale_guidance",
    "sample_loop",
    "sample_scan",
    "sampler_step",
    "schedule",
    "stack_conditions",
    "time_grid",
    "timestep_grid",
]
