"""Training: state, step, loop, checkpoints, and the losses of each stage."""

from im3d_jax.training.loop import train
from im3d_jax.training.state import TrainState, create_state, merge
from im3d_jax.training.step import make_train_steps


__all__ = ["TrainState", "create_state", "make_train_steps", "merge", "train"]
