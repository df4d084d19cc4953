"""Who does the work of a loop's stages: in memory, or in a run folder that keeps every result."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import jax

from im3d_jax.digests import json_hash
from im3d_jax.errors import OutOfMemory
from im3d_jax.generation import fits
from im3d_jax.generation.stages import Ref, Result, Stage, Stages, Workplace
from im3d_jax.output.records import to_json
from im3d_jax.output.run_folder import RunFolder, StageFiles
from im3d_jax.progress import Progress, ProgressCalls


T = TypeVar("T")
R = TypeVar("R")


class Runner(Protocol):
    """Does the work of stages."""

    def finished(self, stage: Stage[Any]) -> bool:
        """Whether the result is there already."""
        ...

    def run(self, stage: Stage[T], result: Result[T] | None = None) -> Ref[T]:
        """Does a stage's work unless it is finished.

        Args:
            stage: What to do.
            result: Of the work, where it was done elsewhere.
        """
        ...


def drive(stages: Stages[R], runner: Runner) -> R:
    """Runs a loop to its end and returns what it returns."""
    return Loop(stages, runner).finish()


class Loop(Generic[R]):
    """A loop under way.

    Args:
        stages: The generator.
        runner: Does its work.

    Attributes:
        stage: What is to be done next; None when the loop has ended.
        result: What the loop returned.
    """

    def __init__(self, stages: Stages[R], runner: Runner):
        self._stages, self.runner = stages, runner
        self.stage: Stage[Any] | None = None
        self.result: R | None = None
        self._send(None)

    def advance(self, result: Result[Any] | None = None) -> None:
        """Does the next stage, or takes its result from elsewhere."""
        assert self.stage is not None
        self._send(self.runner.run(self.stage, result))

    def finish(self) -> R:
        """Does all that is left."""
        while self.stage is not None:
            self.advance()
        return self.result  # type: ignore[return-value]  # set when the generator ended

    def _send(self, ref: Ref[Any] | None) -> None:
        try:
            self.stage = self._stages.send(ref)  # type: ignore[arg-type]  # a generator starts by None
        except StopIteration as stop:
            self.stage, self.result = None, stop.value


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryRef(Generic[T]):
    """A result in memory.

    Attributes:
        value: The result, as stored.
        key: SHA-256 of what decided it.
        evaluations: Network evaluations that it took.
        seconds: That it took.
    """

    value: T
    key: str
    evaluations: int
    seconds: float

    def get(self) -> T:
        """See `Ref`."""
        return self.value


class MemoryRunner:
    """Keeps results in memory, and does no work twice.

    Loops that share a runner share results: give one only to plans that agree in everything but `rounds`.

    Args:
        progress: Who is told.

    Attributes:
        refs: {name of a stage: its result} of the loop that ran last, in its order.
    """

    def __init__(self, progress: Progress | None = None):
        self._progress = progress or ProgressCalls(None)
        self._kept: dict[str, MemoryRef[Any]] = {}
        self.refs: dict[str, MemoryRef[Any]] = {}

    def _key(self, stage: Stage[Any]) -> str:
        return json_hash([stage.name, dict(stage.settings), [getattr(ref, "key", id(ref)) for ref in stage.inputs]])

    def finished(self, stage: Stage[Any]) -> bool:
        """See `Runner`."""
        return self._key(stage) in self._kept

    def run(self, stage: Stage[T], result: Result[T] | None = None) -> Ref[T]:
        """See `Runner`."""
        key, started = self._key(stage), time.monotonic()
        if key not in self._kept:
            with self._progress.stage(stage.title) as report:
                if result is None:
                    place = Workplace(report, self._progress.line, self.seconds)
                    result = stage.work(place, *(ref.get() for ref in stage.inputs))
            for line in result.remarks:
                self._progress.line(line)
            value, seconds = stage.store.stored(result.value), time.monotonic() - started
            self._kept[key] = MemoryRef(value, key, result.evaluations, seconds)
        self.refs[stage.name] = self._kept[key]
        return self._kept[key]

    def __enter__(self) -> MemoryRunner:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self) -> None:
        """Forgets which stages the last loop had, not their results."""
        self.refs = {}

    @property
    def seconds(self) -> float:
        """Of all stages of the last loop."""
        return sum(ref.seconds for ref in self.refs.values())

    @property
    def evaluations(self) -> int:
        """Network evaluations of all stages of the last loop."""
        return sum(ref.evaluations for ref in self.refs.values())


@dataclasses.dataclass(frozen=True, eq=False)
class FolderRef(Generic[T]):
    """A result in a run folder; reading it anew each time keeps no views or states in memory.

    Attributes:
        folder: Of the run.
        stage: Whose result it is.
        files: That hold it, relative to the folder.
    """

    folder: RunFolder
    stage: Stage[T]
    files: tuple[str, ...]

    def get(self) -> T:
        """See `Ref`."""
        return self.stage.store.read(self.folder)


class FolderRunner:
    """Keeps every result in a run folder and skips stages that are finished there.

    Use as a context manager: leaving it lets other processes work in the folder.

    Args:
        folder: Of the run; it has been started.
        progress: Who is told.
    """

    def __init__(self, folder: RunFolder, progress: Progress):
        self.folder, self._progress = folder, progress

    def __enter__(self) -> FolderRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()

    @property
    def seconds(self) -> float:
        """Of all finished stages."""
        return self.folder.seconds

    @property
    def evaluations(self) -> int:
        """Network evaluations of all finished stages."""
        return self.folder.network_evaluations

    def finished(self, stage: Stage[Any]) -> bool:
        """See `Runner`."""
        return self.folder.finished(stage.name, _files(stage), stage.settings)

    def run(self, stage: Stage[T], result: Result[T] | None = None) -> Ref[T]:
        """See `Runner`."""
        folder, inputs = self.folder, _files(stage)
        if self.finished(stage):
            self._progress.line(f"{stage.title}: already finished")
        else:
            with self._progress.stage(stage.title) as report:

                def work(files: StageFiles) -> int:
                    done = result
                    if done is None:
                        label = json_hash([folder.sha256, folder.key(stage.name, inputs, stage.settings)])
                        line, seconds = self._progress.line, folder.seconds
                        place = Workplace(report, line, seconds, folder, stage.name, label)
                        done = stage.work(place, *(ref.get() for ref in stage.inputs))
                    for text in done.remarks:
                        self._progress.line(text)
                    stage.store.write(done.value, files)
                    for name, facts in done.facts.items():
                        files.write(name, to_json(facts))
                    for name, content in done.files.items():
                        files.write(name, content)
                    return done.evaluations

                folder.stage(stage.name, work, inputs=inputs, settings=stage.settings)
        (folder / fits.partial_file(stage.name)).unlink(missing_ok=True)
        folder.note_files(stage.store.noted)
        return FolderRef(folder, stage, folder.outputs(stage.name))


def _files(stage: Stage[Any]) -> list[str]:
    return [file for ref in stage.inputs for file in getattr(ref, "files", ())]


@contextlib.contextmanager
def enough_memory(memory: str | None, rows: int | None = None) -> Iterator[None]:
    """Turns the runtime's complaint about too little device memory into one line; estimates can be wrong.

    Args:
        memory: Name of the model's memory preset, where it has presets.
        rows: Objects at once, where fewer are possible.

    Raises:
        OutOfMemory: Work inside ran out of memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        way_out = "use a lower --quality" if memory is None else f"use a smaller preset than --memory={memory}"
        if rows is not None:
            way_out = f"use a smaller --batch than {rows}, or {way_out}"
        raise OutOfMemory(
            f"the device is out of memory; {way_out}, or let this process use more of it "
            "(XLA_PYTHON_CLIENT_MEM_FRACTION=0.95); finished work is kept"
        ) from error
