"""Checkpoints of a training run: the whole state and the run's settings, through orbax."""

from __future__ import annotations

import pathlib

import jax
import orbax.checkpoint as ocp

from im3d_jax.training.state import TrainState


class Checkpoints:
    """Saves and restores a run's `TrainState` under `folder`; the newest `keep` are kept.

    Use as a context manager: leaving it waits for the last write.
    """

    def __init__(self, folder: str | pathlib.Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(pathlib.Path(folder).resolve(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    def save(self, state: TrainState, settings: dict) -> None:
        """Writes the state of `int(state.step)` unless it is there already."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state), settings=ocp.args.JsonSave(settings)),
            )

    def restore(self, like: TrainState, settings: dict) -> TrainState | None:
        """The newest state, laid out as `like` (arrays, or shapes with shardings), or None if there is none.

        Raises:
            ValueError: If the checkpoint was written with other settings.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), settings=ocp.args.JsonRestore()),
        )
        if found["settings"] != settings:
            changed = sorted(k for k in {*settings, *found["settings"]} if settings.get(k) != found["settings"].get(k))
            raise ValueError(
                f"the checkpoint of step {step} was made with other settings ({', '.join(changed)}): "
                "use a new --workdir"
            )
        return found["state"]
