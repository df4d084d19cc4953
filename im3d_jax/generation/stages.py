"""A stage of a run: its work as a pure function of the results of other stages, and how its own result is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from im3d_jax.output.run_folder import RunFolder, StageFiles
from im3d_jax.pipelines.base import Batch, Drawing
from im3d_jax.progress import Report


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Result(Generic[T]):
    """What a stage's work returns.

    Attributes:
        value: The result.
        evaluations: Network evaluations that it took.
        remarks: Lines for the user.
        facts: {file of the run folder: JSON values that it keeps beside the result}.
        files: {file of the run folder: its content}, what people look at and no stage reads.
    """

    value: T
    evaluations: int = 0
    remarks: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


class Ref(Protocol[T_co]):
    """The result of a finished stage, wherever it is kept."""

    def get(self) -> T_co:
        """The result, as a later run would find it: pictures are rounded to 8 bits."""
        ...


class Store(Protocol[T]):
    """How a result is kept in a run folder."""

    @property
    def noted(self) -> Mapping[str, str]:
        """{key of run.json: JSON file whose content it takes over}."""
        ...

    def write(self, value: T, files: StageFiles) -> None:
        """Writes the files."""
        ...

    def read(self, folder: RunFolder) -> T:
        """Reads them."""
        ...

    def stored(self, value: T) -> T:
        """What `read` gives after `write`, without files."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Workplace:
    """What a stage's work is given beside its inputs.

    Attributes:
        report: Takes (steps done, all steps, a note).
        line: Takes a line for the user.
        seconds: That all stages before took.
        folder: Where an interrupted fit and previews go; None in memory.
        name: Of the stage.
        label: SHA-256 of everything that decides the result of the stage.
    """

    report: Report
    line: Callable[[str], Any]
    seconds: float = 0.0
    folder: RunFolder | None = None
    name: str = ""
    label: str = ""


@runtime_checkable
class Draw(Protocol):
    """Work that many runs can share: drawing by a network."""

    key: Hashable
    """Works of equal keys may share a batch."""
    waits: bool
    """Whether the next stage needs the result on the host; otherwise a batch may go on while the devices draw."""

    def start(
        self, works: Sequence[Any], inputs: Sequence[Sequence[Any]], batch: Batch, report: Report | None
    ) -> Drawing:
        """Starts to draw for several works of one key.

        Args:
            works: B works, this one among them.
            inputs: Results of the inputs of each.
            batch: Where the rows lie.
            report: Told of every step.
        """
        ...

    def __call__(self, place: Workplace, *inputs: Any) -> Result[Any]:
        """Draws for this work alone."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Stage(Generic[T]):
    """One step of a run.

    Attributes:
        name: Unique in the run.
        title: For the user.
        store: How the result is kept.
        work: Called with a `Workplace` and the results of the inputs.
        inputs: Results of earlier stages.
        settings: JSON values that decide the result beside the inputs and the run's own settings.
        early: Whether a batch may do it before the stages of other runs that come first.
    """

    name: str
    title: str
    store: Store[T]
    work: Callable[..., Result[T]]
    inputs: tuple[Ref[Any], ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    early: bool = False


R = TypeVar("R")
Stages = Generator[Stage[Any], Ref[Any], R]
"""Yields stages, is sent the `Ref` of each, and returns what the run is about."""
