"""A stage of training: what is trained on what, by which loss, how it is judged, and what is written at its end."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax

from im3d_jax.data.loading import ExampleSource
from im3d_jax.training.objectives import Objective
from im3d_jax.training.trees import Rule, Tree, merge


Computation = Literal["bfloat16", "float32", "float16"]
"""Dtypes of a stage's computation."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """Everything about a stage that the trainer does not know.

    Attributes:
        name: For folders and messages.
        identity: JSON values that say what is trained: sizes, starting weights by their SHA-256, data. A run folder of
            another identity is refused.
        params: Nested parameters at the start; held ones in the dtype in which they are kept.
        trained: Which parameters are trained, by dotted name.
        objective: The loss.
        source: The examples.
        combine: Makes the network's parameters of trained and held ones.
        evaluate: Figures of nested parameters, all of them, for the log; None for none.
        tflop: Arithmetic of a step for one example, see `flops.step_tflop`; None where it is not known.
        sheet: A picture [H, W, 3] of what nested parameters draw, for the log; None for none.
        export: Writes what the stage is for; called with all nested parameters and the run's folder.
    """

    name: str
    identity: Mapping[str, Any]
    params: Tree
    trained: Rule
    objective: Objective
    source: ExampleSource
    combine: Callable[[Tree, Tree], Tree] = merge
    evaluate: Callable[[Tree], dict[str, float]] | None = None
    tflop: float | None = None
    sheet: Callable[[Tree], Any] | None = None
    export: Callable[[Tree, pathlib.Path], None] = lambda params, folder: None


@dataclasses.dataclass(frozen=True, eq=False)
class Outline:
    """What decides the compiled step of a stage, without weights and data: to compile it, and to see its memory.

    Attributes:
        params: Nested shapes, held parameters in the dtype in which they are kept.
        trained, objective, combine: See `Stage`.
        example: Shapes of one example.
    """

    params: Tree
    trained: Rule
    objective: Objective
    example: Mapping[str, jax.ShapeDtypeStruct]
    combine: Callable[[Tree, Tree], Tree] = merge


# Fields of stage settings that a run may change when it goes on: speed and memory, not what is learned.
FREE = ("learning_rate", "dtype", "attention", "remat", "fixed")


def deciding(settings: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings that decide what a stage learns: for its identity.

    Args:
        settings: A dataclass.
        without: Further fields to leave out: paths, for instance, in whose place the contents count.
    """
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in (*FREE, *without)}
