"""Checkpoints of a training run through orbax: the state, and what it was trained with.

Writing is asynchronous; its errors surface at the next call. A newest checkpoint that cannot be read (a process was
killed while it wrote, a disk was full, a file is damaged) is set aside with a line, and the one before is taken.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from im3d_jax.errors import InputError
from im3d_jax.training.state import TrainState


class Checkpoints:
    """Saves and restores a run's `TrainState` under `folder`; the newest `keep` are kept.

    Use as a context manager: leaving it waits for the last write.

    Args:
        folder: Where they lie.
        keep: How many are kept, at least 2, so that a damaged one does not end the run.
        line: Takes a line for the user.
        asynchronous: Whether to write while the next steps run.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        *,
        keep: int = 2,
        line: Callable[[str], Any] = lambda text: None,
        asynchronous: bool = True,
    ):
        self._folder, self._line = pathlib.Path(folder).resolve(), line
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=max(2, keep), enable_async_checkpointing=asynchronous, cleanup_tmp_directories=True
        )
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        handlers = {"state": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self._folder, options=self._options, item_handlers=handlers)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(self, state: TrainState, record: Mapping[str, Any]) -> None:
        """Starts to write the state of `int(state.step)`, unless it is there already.

        Args:
            state: Finite: the train step never lets another one arise.
            record: JSON values: what the run is, and where its data stand.

        Raises:
            InputError: The disk is full or cannot be written, now or when the checkpoint before was written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(dict(record)))
        self._surfacing(lambda: self._manager.save(step, args=args))

    def wait(self) -> None:
        """Waits until all is written.

        Raises:
            InputError: It could not be written.
        """
        self._surfacing(self._manager.wait_until_finished)

    def restore(
        self, like: TrainState, check: Callable[[dict[str, Any]], Any] = lambda record: None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest state that can be read, and its record; None if there is none.

        Args:
            like: Laid out as the result shall be: arrays, or shapes with shardings, of this mesh.
            check: Raises for a record of another run, before its state is read.

        Raises:
            InputError: The newest checkpoint is of other parameters.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            record = self._record(step)
            if record is not None:
                check(record)
                problem = self._mismatch(step, like)
                if problem is not None:
                    raise InputError(
                        f"{self._folder / str(step)} is of another model ({problem}); take a new --workdir"
                    )
                state = self._state(step, like)
                if state is not None:
                    return state, record
            self._line(f"the checkpoint of step {step} cannot be read and is set aside; the one before is taken")
            self._set_aside(step)
        return None

    def _record(self, step: int) -> dict[str, Any] | None:
        try:
            return json.loads((self._folder / str(step) / "record" / "metadata").read_bytes())
        except (OSError, ValueError):
            return None

    def _mismatch(self, step: int, like: TrainState) -> str | None:
        """The first parameter in which the checkpoint differs from `like`; None if it fits, or does not say."""
        try:
            found = self._manager.item_metadata(step)["state"]
            tree = getattr(found, "tree", found)
            saved = {ocp.utils.tuple_path_from_keypath(path): leaf for path, leaf in _leaves(tree["params"])}
        except Exception:  # noqa: BLE001  # whatever orbax raises for a damaged file: reading the state will tell
            return None
        wanted = {ocp.utils.tuple_path_from_keypath(path): leaf for path, leaf in _leaves(like.params)}
        for name in sorted(saved.keys() ^ wanted.keys()):
            return f"{'.'.join(name)} is {'missing' if name in wanted else 'unknown'}"
        for name, leaf in wanted.items():
            shape = tuple(saved[name].shape)
            if shape != tuple(leaf.shape):
                return f"{'.'.join(name)} has shape {shape}, expected {tuple(leaf.shape)}"
        return None

    def _state(self, step: int, like: TrainState) -> TrainState | None:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            state = self._manager.restore(step, args=args)["state"]
        except Exception:  # noqa: BLE001  # orbax and tensorstore raise many kinds for damaged files
            return None
        finite = all(
            bool(np.isfinite(jax.device_get(leaf.ravel()[:1])).all()) for leaf in jax.tree.leaves(state.params)
        )
        return state if finite else None

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            damaged = self._folder / str(step)
            damaged.rename(self._folder.parent / f"damaged_{self._folder.name}_{step}")
        self._manager.close()
        self._manager = self._open()

    def _surfacing(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"cannot write a checkpoint to {self._folder} ({reason}); make room and rerun the same command: the "
                "checkpoint before is whole"
            ) from error


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]
