"""Draws the views of every line of a file of prompts, in batches over all devices; with --assets also fits them.

    python -m experiments.sample --prompts=prompts.jsonl --out=runs/many
    python -m experiments.sample --prompts=prompts.jsonl --model=DIR --batch=64 --assets --quality=best --out=runs/many

Lines: {"prompt": "a red mug", "image": "mug.png", "seed": 1}, with a prompt, a picture (its path counts from the
file's folder) or both. Line 7 gets the run folder OUT/00007, as `im3d views` (or `im3d generate`) would make it with
this seed: the same views to rounding, whatever else is in its batch. OUT/summary.json holds the throughput.

A line that cannot be drawn is named and left out, and the program ends with code 2 when the others are finished. The
same command goes on where an interrupted one stopped, and tries failed lines again. With --shard=0/4 ... --shard=3/4
four machines share the lines; each writes a summary of its own.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from experiments.programs import flags_parser, run_program
from experiments.prompts import Line, Work, read_lines
from experiments.shards import parse_shard
from im3d_jax.cli import common, generate, views
from im3d_jax.errors import InputError
from im3d_jax.output.progress import ProgressPrinter
from im3d_jax.output.run_folder import RUN_FILE, STAGES_FILE, RunFolder, to_json


# Of a batch by default: the project's own model, and foreign ones, whose single orbit fills a device.
ROWS_PER_DEVICE, FOREIGN_ROWS = {"cpu": 2, "gpu": 8, "tpu": 8}, 1
_SHARED_FLAGS = ("model", "image_model", "orbit_direction", "memory", "quality", "elevation_deg")
_ASSET_FLAGS = ("rounds", "lpips_weights")


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    common.register_run_flags(values)
    common.register_foreign_flags(values)
    common.register_lpips_flag(values)
    common.register_elevation_flag(values)
    common.register_rounds_flag(values)
    flags.DEFINE_string("prompts", None, "file of JSON lines with prompt, image, seed", flag_values=values)
    flags.DEFINE_integer("batch", None, "objects drawn at once, over all devices", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("assets", False, "also fit an asset to the views of each line", flag_values=values)
    flags.DEFINE_string("shard", "0/1", "i/n: only lines i, i + n, i + 2 n, ...", flag_values=values)


def open_lines(values: flags.FlagValues, lines: Sequence[Line]) -> list[Work]:
    """The run folders of the lines, with the settings of `im3d views` or `im3d generate`; nothing in them is changed.

    Raises:
        InputError: a picture that cannot be used, or a folder with results of other settings; the line is named.
    """
    command = generate if values.assets else views
    model_settings, found = None, []
    for line in lines:
        given = _flags_of_line(values, command, line)
        try:
            settings: dict[str, Any] = {"command": "generate" if values.assets else "views"}
            settings |= common.source_settings(given)
            if values.assets:
                settings |= {"rounds": values.rounds} | common.lpips_settings(given)
            # The weights are hashed once, not once a line.
            model_settings = model_settings or common.run_settings(given)
            settings |= model_settings | {"seed": line.seed} | common.foreign_settings(given)
            folder = common.open_run(given, settings)
        except InputError as error:
            raise InputError(f"line {line.number} of {values.prompts}: {error}") from None
        found.append(Work(line, folder, set() if values.overwrite else _stages_done(folder)))
    return found


def _flags_of_line(values: flags.FlagValues, command, line: Line) -> flags.FlagValues:
    """The flags that `im3d views` or `im3d generate` would be called with."""
    shared = [*_SHARED_FLAGS, *(_ASSET_FLAGS if values.assets else ())]
    if line.image is not None:
        shared.remove("image_model")  # is for the other lines
    arguments = [f"--{name}={values[name].value}" for name in shared if values[name].present]
    arguments += [f"--seed={line.seed}", f"--out={pathlib.Path(values.out) / line.name}"]
    arguments += [f"--{name}={value}" for name in ("prompt", "image") if (value := getattr(line, name)) is not None]
    given = flags.FlagValues()
    command.register(given)
    given(["im3d", *arguments, *(["--overwrite"] if values.overwrite else [])])
    return given


def _stages_done(folder: RunFolder) -> set[str]:
    """Stages whose files are there, in the order of the run up to the first that lacks one.

    Run folders themselves also look at the files' content; for lines that are finished, reading it all costs too much.
    """
    done: set[str] = set()
    try:
        for name, stage in json.loads((folder / STAGES_FILE).read_bytes()).items():
            if not all((folder / file).is_file() for file in stage["outputs"]):
                break
            done.add(name)
        return done
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return set()  # none yet, or damaged: opening the run says so


def batch_size(asked: int | None, devices: int, usual: int, most: int) -> int:
    """Rows of a batch: as asked for or as usual, but no more than there is to draw.

    Args:
        asked: by --batch, or None.
        devices: over which the rows are split.
        usual: rows a device where nothing is asked for.
        most: lines of the largest kind of requests.

    Raises:
        InputError: what was asked for cannot be split evenly.
    """
    if asked is not None and asked % devices:
        near = -(-asked // devices) * devices
        raise InputError(f"--batch={asked} cannot be split over {devices} devices; give a multiple, as --batch={near}")
    size = asked or devices * usual
    return min(size, -(-most // devices) * devices)


class Summary:
    """Counts and throughput, kept in a file of the output folder; its times begin when it is made."""

    def __init__(self, path: pathlib.Path, facts: dict[str, Any], finished: Sequence[RunFolder], lines: int):
        self._path, self._facts, self._folders, self._lines = path, facts, list(finished), lines
        self._drawn, self._started, self._first = 0, time.monotonic(), None
        self.failed: dict[str, str] = {}

    def add(self, folder: RunFolder) -> None:
        """Counts a line that is finished now."""
        self._folders.append(folder)
        self._drawn += 1

    def end_first_batch(self) -> None:
        """All was compiled: from here on the second rate counts."""
        self._first = self._drawn, time.monotonic() - self._started

    def write(self) -> dict[str, Any]:
        """Writes the file anew, after each object, and returns what it holds."""
        seconds = time.monotonic() - self._started
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
        partial = self._path.with_name(f".partial-{self._path.name}")
        partial.write_bytes(to_json(held))
        os.replace(partial, self._path)
        return held


def run(values: flags.FlagValues, command: str) -> dict[str, Any]:
    """Draws what is not finished yet and returns the summary.

    Raises:
        InputError: a wrong flag or line, a model that cannot be loaded, a folder that cannot be written, too little
            device memory; or, when all others are finished, lines that failed.
    """
    if not values.prompts:
        raise InputError("--prompts is missing; give a file of JSON lines, for instance --prompts=prompts.jsonl")
    if not values.out:
        raise InputError("--out is missing; give the folder to write, for instance --out=runs/many")
    part, parts = parse_shard(values.shard)
    lines = read_lines(values.prompts, seed=values.seed)[part::parts]
    common.find_weights(values)
    works, progress = open_lines(values, lines), ProgressPrinter()
    last = "metrics" if values.assets else "preview"
    pending = [work for work in works if last not in work.done]
    finished = [work.folder for work in works if last in work.done]
    if finished:
        progress.line(f"{len(finished)} of {len(works)} lines: finished before")
    common.start_jax()
    import jax

    from experiments.lines import Drawer, Ready
    from im3d_jax.cli.orbits import enough_memory

    facts = {"command": command, "model": values.model, "quality": values.quality, "assets": values.assets}
    path = pathlib.Path(values.out) / ("summary.json" if parts == 1 else f"summary_{part}_of_{parts}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not pending:
        held = Summary(path, facts, finished, len(works)).write() if works else {}
        progress.line("nothing is left to draw")
        return held
    model, image_model = common.load_models(values, fits=values.assets)
    perceptual = common.load_perceptual(values, model) if values.assets else None
    devices = jax.local_devices()
    counts = [sum(work.kind == kind for work in pending) for kind in {work.kind for work in pending}]
    usual = FOREIGN_ROWS if model.recipe is not None else ROWS_PER_DEVICE.get(devices[0].platform, 8)
    size = batch_size(values.batch, len(devices), usual, max(counts))
    with enough_memory(model):
        drawer = Drawer(model, image_model, values.quality, devices, size)
    facts |= {"device": devices[0].device_kind, "devices": len(drawer.devices), "batch": drawer.size}
    summary = Summary(path, facts, finished, len(works))
    quiet, compiled = ProgressPrinter(io.StringIO()), False
    fewer = drawer.size if drawer.size > len(drawer.devices) else None
    with enough_memory(model, fewer), progress.stage("assets" if values.assets else "views") as report:
        for count, batch in enumerate(drawer.draw(pending), 1):
            for outcome in batch:
                failed = outcome
                if isinstance(outcome, Ready):
                    for text in outcome.said:
                        progress.line(f"{outcome.line.name}: {text}")
                    failed = outcome.finish(values.assets, perceptual, quiet)
                if failed is None:
                    summary.add(outcome.folder)
                else:
                    progress.line(f"line {failed.line.number}: {failed.reason}")
                    summary.failed[failed.line.name] = failed.reason
                held = summary.write()
                rate = f"{held['assets_a_minute'] or 0:.1f} a minute"
                report(held["finished"], held["lines"], rate)
            progress.line(f"batch {count}: {held['finished']} of {held['lines']}, {rate}")
            if not compiled:
                summary.end_first_batch()
                compiled = any(isinstance(outcome, Ready) and outcome.drawn for outcome in batch)
    progress.line(f"summary in {path}")
    if summary.failed:
        raise InputError(
            f"{len(summary.failed)} of {len(works)} lines failed, for the reasons above and in {path}; the others are "
            "finished, the same command tries these again"
        )
    return held


parse_flags = flags_parser("sample")


def main(argv: Sequence[str]) -> int:
    """Returns 0, 2 for a wrong input (one line on stderr) or failed lines (one each, one more), 130 after Ctrl-C."""
    command = shlex.join(["python", "-m", "experiments.sample", *sys.argv[1:]])
    kept = "finished lines are kept, the same command goes on"
    return run_program("sample", lambda: run(flags.FLAGS, command), argv, kept)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main, flags_parser=parse_flags)
