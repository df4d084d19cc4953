"""A file of prompts: one run folder for each line, drawn in batches, resumable, with its throughput in a summary."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from im3d_jax import environment
from im3d_jax.atomic import LOCK_FILE, Held, hold, write_whole
from im3d_jax.errors import InputError, RunFolderError
from im3d_jax.generation.batch import OWN_ERRORS, Outcome, draw_ahead, make_room
from im3d_jax.generation.loop import asset_stages, view_stages
from im3d_jax.generation.plan import PerceptualChoice, Plan, make_plan
from im3d_jax.generation.prompt_files import Line
from im3d_jax.generation.runners import FolderRunner, Loop, MemoryRunner, enough_memory
from im3d_jax.output.records import read_object, stage_records, to_json
from im3d_jax.output.run_files import VOLATILE_HASH
from im3d_jax.output.run_folder import RUN_FILE, STAGES_FILE, RunFolder, is_whole
from im3d_jax.pipelines import Pipeline
from im3d_jax.progress import Progress, ProgressPrinter


@dataclasses.dataclass(frozen=True)
class ManySettings:
    """How the lines of a file are made.

    Attributes:
        out: Folder of the run folders; line 7 gets ``00007``.
        what: ``views``, or ``asset`` to fit one to the views of each line.
        rows: Objects drawn at once over all devices; None for the model's usual number.
        overwrite: Replace what other settings left.
        summary: Name of the summary in `out`.
        facts: For the summary: the command, for instance.
    """

    out: str | os.PathLike
    what: Literal["views", "asset"] = "views"
    rows: int | None = None
    overwrite: bool = False
    summary: str = "summary.json"
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class Work:
    """A line under way.

    Attributes:
        line: What to make.
        plan: Resolved with the model.
        folder: Its run folder.
        done: Stages whose files are there.
        own: Whether this process keeps the line; the others draw it alongside.
    """

    line: Line
    plan: Plan
    folder: RunFolder
    done: set[str]
    own: bool = True


class Summary:
    """Counts and throughput, kept in a file of the output folder; its times begin when it is made.

    Args:
        path: Of the file.
        facts: For the file: the command, for instance.
        finished: Folders of the lines that were finished before.
        lines: How many there are.
        clock: Seconds since any moment.

    Attributes:
        failed: {name of a line: why it failed}.
    """

    def __init__(
        self,
        path: pathlib.Path,
        facts: Mapping[str, Any],
        finished: Sequence[RunFolder],
        lines: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._path, self._facts, self._folders, self._lines = path, dict(facts), list(finished), lines
        self._clock, self._drawn, self._started, self._first = clock, 0, clock(), None
        self.failed: dict[str, str] = {}

    def add(self, folder: RunFolder) -> None:
        """Counts a line that is finished now."""
        self._folders.append(folder)
        self._drawn += 1

    def end_first_batch(self) -> None:
        """All was compiled: from here on the second rate counts."""
        self._first = self._drawn, self._clock() - self._started

    def write(self) -> dict[str, Any]:
        """Writes the file anew, after each object, and returns what it holds."""
        seconds = self._clock() - self._started
        first, until = (self._drawn, seconds) if self._first is None else self._first
        rest, later = self._drawn - first, seconds - until
        evaluations = [json.loads((folder / RUN_FILE).read_bytes())["network_evaluations"] for folder in self._folders]
        held = self._facts | {
            "lines": self._lines,
            "finished": len(self._folders),
            "failed": self.failed,
            "network_evaluations": sum(evaluations),
            "drawn_by_this_run": self._drawn,
            "seconds": round(seconds, 2),
            "assets_a_minute": round(60 * self._drawn / seconds, 3) if self._drawn else None,
            "assets_a_minute_after_first_batch": round(60 * rest / later, 3) if rest else None,
        }
        write_whole(self._path, to_json(held))
        return held


def make_all(
    lines: Sequence[Line],
    pipeline: Pipeline,
    settings: ManySettings,
    progress: Progress,
    *,
    lpips: PerceptualChoice | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Makes what is not finished yet and returns the summary.

    Where several processes run as one program (`distributed.start`), all draw all lines together, and each keeps its
    own share of them: line i belongs to process i modulo their number. `settings.out` is then a folder that all see.

    Args:
        lines: From `prompt_files.read_lines`.
        pipeline: Draws.
        settings: Where and how.
        progress: Who is told.
        lpips: Features for the fits; the model's own without.
        clock: Seconds since any moment, for the throughput.

    Raises:
        InputError: A line that cannot be used, before anything is drawn; a folder that cannot be written; too little
            device memory; or, when all others are finished, lines that failed.
    """
    me, processes = jax.process_index(), jax.process_count()
    works = [_open(line, pipeline, settings, lpips, own=place % processes == me) for place, line in enumerate(lines)]
    last = "metrics" if settings.what == "asset" else "preview"
    ready = _agreed([last in work.done for work in works])
    summary_name = settings.summary if processes == 1 else f"summary_{me}_of_{processes}.json"
    path = pathlib.Path(settings.out) / summary_name
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        return _make_pending(works, ready, path, pipeline, settings, progress, clock)


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
    """Keeps a second process from making the same lines.

    Raises:
        InputError: There is one already.
    """
    try:
        held = hold(path.parent, f"{LOCK_FILE}-{path.name}")
    except Held as other:
        raise InputError(
            f"another process ({other.holder}) makes these lines in {path.parent}; wait for it, choose another --out, "
            "or share the lines with --shard"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write to {path.parent} ({error.strerror}); choose another --out") from None
    with held:
        yield


def _make_pending(
    works: Sequence[Work],
    ready: Sequence[bool],
    path: pathlib.Path,
    pipeline: Pipeline,
    settings: ManySettings,
    progress: Progress,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """Makes the lines that are not ready; `path` is that of the summary."""
    processes, own = jax.process_count(), sum(work.own for work in works)
    pending = [work for work, done in zip(works, ready, strict=True) if not done]
    finished = [work.folder for work, done in zip(works, ready, strict=True) if done and work.own]
    if finished:
        progress.line(f"{len(finished)} of {own} lines: already finished")
    facts = {**settings.facts, "model": pipeline.name, "assets": settings.what == "asset"}
    if not pending:
        held = Summary(path, facts, finished, own, clock).write() if own else {}
        progress.line("nothing is left to draw")
        return held
    room = make_room(pipeline, _largest_kind(pending), rows=settings.rows, devices=jax.devices())
    facts |= {"device": room.devices[0].device_kind, "devices": len(room.devices), "batch": room.rows}
    summary = Summary(path, facts, finished, own, clock)
    quiet = ProgressPrinter(io.StringIO())
    loops = {}
    for work in pending:
        stages = asset_stages(work.plan) if settings.what == "asset" else view_stages(work.plan)
        if not work.own:
            loops[Loop(stages, MemoryRunner())] = work
            continue
        if processes > 1:
            # The processes must draw the same: what only this one has begun is drawn again, to the same bytes.
            work.folder = RunFolder(work.folder.path, work.plan.settings(), overwrite=True)
        # Held at each stage alone: a file could not be kept open for each of many lines.
        work.folder.start(environment.versions(), work.plan.facts(), held=False)
        loops[Loop(stages, FolderRunner(work.folder, quiet))] = work
    fewer = room.rows if room.rows > len(room.devices) else None
    held, rate = {}, ""
    compiled, title = False, "assets" if settings.what == "asset" else "views"
    with enough_memory(pipeline.views.memory, fewer), progress.stage(title) as report:
        for count, batch in enumerate(draw_ahead(list(loops), pipeline, room), 1):
            drawn = any(error is None and "views" not in loops[loop].done for loop, error in batch)
            for outcome in batch:
                work = loops[outcome[0]]
                if not work.own:
                    continue
                failed = _finish(outcome, work, progress)
                if failed is None:
                    summary.add(work.folder)
                else:
                    progress.line(f"line {work.line.number}: {failed}")
                    summary.failed[work.line.name] = failed
                held = summary.write()
                rate = f"{held['assets_a_minute'] or 0:.1f} a minute"
                report(held["finished"], held["lines"], rate)
            if held:
                progress.line(f"batch {count}: {held['finished']} of {held['lines']}, {rate}")
            if not compiled:
                summary.end_first_batch()
                compiled = drawn
    progress.line(f"summary: {path}")
    if summary.failed:
        raise InputError(
            f"{len(summary.failed)} of {own} lines failed, for the reasons above and in {path}; the others are "
            "finished; rerun the same command to try the failed ones again"
        )
    return held


def _agreed(flags: Sequence[bool]) -> list[bool]:
    """Which lines are finished, as process 0 sees it: all processes must draw the same ones."""
    if jax.process_count() == 1:
        return list(flags)
    from jax.experimental import multihost_utils

    return [bool(flag) for flag in multihost_utils.broadcast_one_to_all(np.asarray(flags))]


def _open(line: Line, pipeline: Pipeline, settings: ManySettings, lpips: PerceptualChoice | None, *, own: bool) -> Work:
    """The run folder of a line, as `im3d views` or `im3d generate` would have it; nothing in it is changed."""
    try:
        plan = make_plan(line.request, pipeline, what=settings.what, lpips=lpips)
        path = pathlib.Path(settings.out) / line.name
        folder = RunFolder(path, plan.settings(), overwrite=settings.overwrite)
    except InputError as error:
        raise InputError(f"line {line.number}: {error}") from None
    return Work(line, plan, folder, set() if settings.overwrite else _stages_done(folder), own)


def _largest_kind(works: Sequence[Work]) -> int:
    """Lines of the largest group that can share batches."""
    kinds = [(work.plan.request.prompt is None, work.plan.given or "input" in work.done) for work in works]
    return max(kinds.count(kind) for kind in kinds)


def _stages_done(folder: RunFolder) -> set[str]:
    """Stages whose files are there, in the order of the run up to the first that lacks one.

    Run folders themselves also look at the files' content; for lines that are finished, reading it all costs too much.
    """
    done: set[str] = set()
    run = read_object(folder / RUN_FILE) or {}
    if type(run.get("network_evaluations")) is not int:
        return done  # damaged: starting the run mends it
    for name, stage in (stage_records(folder / STAGES_FILE) or {}).items():
        files = ((folder / file, digest) for file, digest in stage["outputs"].items())
        if not all(
            is_whole(file, digest) if digest is None or digest.startswith(VOLATILE_HASH) else file.is_file()
            for file, digest in files
        ):
            break
        done.add(name)
    return done


def _finish(outcome: Outcome, work: Work, progress: Progress) -> str | None:
    """Does what is left of a line; returns why the line failed, where that is its own fault.

    Raises:
        InputError: What would end other lines too, as a folder that cannot be written.
    """
    loop, error = outcome
    if error is None:
        for text in work.plan.remarks(work.folder.path):
            progress.line(f"{work.line.name}: {text}")
        try:
            loop.finish()
        except OWN_ERRORS as own:
            error = own
        except RunFolderError as failure:
            raise InputError(f"line {work.line.number}: {failure}") from failure
    return None if error is None else str(error)
