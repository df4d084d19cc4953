"""Training: one core for every network and every stage.

A `Stage` says what is trained on what; `train` does the rest: data, steps, checkpoints, metrics, resuming.
"""

from im3d_jax.training.loop import RunSettings, train
from im3d_jax.training.objectives import Denoising, LogNormalSigmas, Objective, UniformTimes
from im3d_jax.training.optimizers import make_optimizer, schedule
from im3d_jax.training.stage import Stage
from im3d_jax.training.state import TrainState, create_state, place_state
from im3d_jax.training.step import make_train_step
from im3d_jax.training.trees import merge, partition


__all__ = [
    "Denoising",
    "LogNormalSigmas",
    "Objective",
    "RunSettings",
    "Stage",
    "TrainState",
    "UniformTimes",
    "create_state",
    "make_optimizer",
    "make_train_step",
    "merge",
    "partition",
    "place_state",
    "schedule",
    "train",
]
