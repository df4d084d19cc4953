"""A stage of training: what is trained on what, by which loss, how it is judged, and what is written at its end."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from im3d_jax.data.loading import ExampleSource
from im3d_jax.errors import InputError
from im3d_jax.training.objectives import Objective
from im3d_jax.training.trees import Rule, Tree, merge


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


_SHARE = "expected a share, 0 to 1"
# What a stage's fields may be, by name: a test, and words for it.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "learning_rate": (lambda value: 0.0 < value < math.inf, "expected a rate above 0"),
    "drop": (lambda value: 0.0 <= value <= 1.0, _SHARE),
    "high_noise": (lambda value: 0.0 <= value <= 1.0, _SHARE),
    "more_given": (lambda value: 0.0 <= value <= 1.0, _SHARE),
    "spatial_rate": (lambda value: 0.0 <= value < math.inf, "expected a share of the rate, 0 or more"),
    "picture_weight": (lambda value: 0.0 <= value < math.inf, "expected 0 or more"),
    "condition_noise": (lambda value: 0.0 <= value < math.inf, "expected 0 or more"),
    "kl_weight": (lambda value: 0.0 <= value < math.inf, "expected 0 or more"),
    "sigma_mean": (lambda value: math.isfinite(value), "expected a finite number"),
    "sigma_std": (lambda value: 0.0 < value < math.inf, "expected a number above 0"),
    "rank": (lambda value: value >= 1, "expected at least 1"),
    "fixed": (lambda value: value >= 0, "expected 0 or more"),
    "dtype": (lambda value: value in ("bfloat16", "float32", "float16"), "expected bfloat16, float32 or float16"),
    "attention": (lambda value: value in ("", "xla", "cudnn", "tpu"), "expected xla, cudnn or tpu"),
    "data.objects": (lambda value: value >= 0, "expected 0 or more"),
    "data.held_out": (lambda value: value >= 0, "expected 0 or more"),
    "data.props": (lambda value: value >= 0, "expected 0 or more"),
    "data.held_out_props": (lambda value: value >= 0, "expected 0 or more"),
    "data.frames": (lambda value: len(value) > 0, "expected numbers of frames"),
}


def check_ranges(settings: Any) -> None:
    """Refuses settings of a stage that are out of range.

    Args:
        settings: A dataclass, see `StageSettings`.

    Raises:
        InputError: A field is.
    """
    for name, (fine, expected) in _RANGES.items():
        part, _, field = name.rpartition(".")
        owner = getattr(settings, part, None) if part else settings
        value = getattr(owner, field, None)
        if value is not None and not fine(value):
            raise InputError(f"stage.{name}={value}: {expected}")
