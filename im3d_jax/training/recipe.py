"""A recipe: the settings of a stage, of its optimizer and of its run, as one value that overrides can change."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import optax
from jax.sharding import Mesh

from im3d_jax import parallel, seeds
from im3d_jax.choices import check_above_zero, check_least, check_share, check_whole
from im3d_jax.errors import InputError, input_errors
from im3d_jax.progress import Progress
from im3d_jax.training.loop import RunSettings, train
from im3d_jax.training.optimizers import make_optimizer, schedule
from im3d_jax.training.stage import Outline, Stage


class StageSettings(Protocol):
    """Settings from which a stage is built: a frozen dataclass."""

    def build(self, seed: int, mesh: Mesh, progress: Progress) -> Stage:
        """Reads weights, prepares data and returns the stage.

        Args:
            seed: Of new weights.
            mesh: Of `parallel.make_mesh`.
            progress: Is told about what takes longer than a few seconds.

        Raises:
            InputError: Weights or data that cannot be used.
        """
        ...

    def outline(self) -> Outline:
        """Shapes of the parameters and of an example, and the objective: neither weights nor data are read."""
        ...

    def rate(self, name: str) -> float:
        """Peak learning rate of a parameter, by its dotted name."""
        ...


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Settings of an optimizer and of its schedule.

    Attributes:
        kind: ``adamw``, or ``muon`` (matrices; AdamW for the rest).
        weight_decay: Of matrices, a share of the rate.
        clip: Largest norm of all gradients together.
        b2: Adam's decay of the squares.
        warmup: Steps of the linear warm-up.
        decay: Last share of the run over which the rate falls linearly to 0; 0 keeps it.

    Raises:
        InputError: A value outside of its range.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.01
    clip: float = 1.0
    b2: float = 0.99
    warmup: int = 200
    decay: float = 0.4

    def __post_init__(self):
        check_least("optimizer.weight_decay", self.weight_decay, 0)
        check_above_zero("optimizer.clip", self.clip, "norm")
        check_least("optimizer.warmup", self.warmup, 0)
        check_share("optimizer.decay", self.decay)
        if not 0.0 <= self.b2 < 1.0:
            raise InputError(f"optimizer.b2={self.b2}: expected a decay in [0, 1)")

    def make(self, rate: Callable[[str], float]) -> optax.GradientTransformation:
        """The optimizer; `rate` gives a parameter's peak learning rate."""
        return make_optimizer(self.kind, rate, weight_decay=self.weight_decay, clip=self.clip, b2=self.b2)


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """How the devices are used: `data` x `fsdp` of them.

    Attributes:
        data: Groups over which the batch is split; -1 takes all devices that `fsdp` leaves.
        fsdp: Devices of a group, over which parameters and optimizer state are split.
    """

    data: int = -1
    fsdp: int = 1

    def make(self) -> Mesh:
        """The mesh over all devices of all processes.

        Raises:
            InputError: Sizes that do not multiply to the number of devices.
        """
        with input_errors(ValueError):
            return parallel.make_mesh(self.data, self.fsdp)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings of a training run.

    Attributes:
        stage: What is trained on what.
        optimizer: By which updates.
        run: For how long, and what is logged and kept.
        mesh: On which devices.
    """

    stage: StageSettings
    optimizer: OptimizerSettings = OptimizerSettings()
    run: RunSettings = RunSettings()
    mesh: MeshSettings = MeshSettings()

    def train(
        self, workdir: str | os.PathLike, *, seed: int = 0, progress: Progress, record: Mapping[str, Any] | None = None
    ) -> bool:
        """Trains in a folder, or goes on with the run that the folder holds.

        Args:
            workdir: Folder of the run.
            seed: Of new weights, noise, and the order of the data.
            progress: Is told about everything that takes longer than a few seconds.
            record: JSON values that ``runs.jsonl`` keeps about this start, beside the recipe.

        Returns:
            Whether the run has reached its length.

        Raises:
            InputError: See `training.train`; weights or data that cannot be used.
        """
        check_whole("seed", seed, 0, seeds.LARGEST)
        mesh = self.mesh.make()
        if self.run.batch % (mesh.size * self.run.micro_batches):
            raise InputError(
                f"run.batch={self.run.batch} cannot be split over {mesh.size} devices x {self.run.micro_batches} "
                "micro-batches; give a multiple"
            )
        stage = self.stage.build(seed, mesh, progress)
        return train(
            stage,
            self.optimizer.make(self.stage.rate),
            self.run,
            workdir=workdir,
            mesh=mesh,
            seed=seed,
            schedule=schedule(self.optimizer.warmup, self.optimizer.decay),
            line=progress.line,
            record={"recipe": dataclasses.asdict(self), **(record or {})},
        )
