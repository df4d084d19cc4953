"""Measures views, assets and refinement against the true turntables of Toybox's test split.

    python -m experiments.evaluate --objects=32 --quality=standard --rounds=0,2 --out=runs/eval

Each of --objects objects goes the way that `im3d generate` goes, but from its true first frame (rendered,
rounded to 8 bits, not centred anew) and its caption. Written to --out: results.jsonl (a line per object),
results.json (the same with means and spreads), and a picture per object; --table=docs/results.md renews the
tables of that page. A rerun with the same settings goes on where an interrupted one stopped.

--clip=DIR (a folder with CLIP ViT-L/14, say) adds similarities to the caption and to the given picture, of the views
and of the asset rendered at their cameras; --lpips_weights=FILE adds LPIPS to all comparisons with the truth.

Toybox's turntables are those of the bundled model's kind. Finished runs of any model, foreign ones included, are
measured without a truth, without drawing anything:

    python -m experiments.evaluate --runs=runs/shoe,runs/mug --clip=DIR --lpips_weights=FILE --json=runs/clip.json

A line a run folder of `im3d generate` and their mean on stdout: similarities to the prompt (where the run has one) and
to input.png, of the views drawn last and of the asset at their cameras, and LPIPS between the two (without its weights,
the perceptual distance on the bundled autoencoder's features); --json=FILE keeps the same.

--level, --refine_steps and --guidance change the refinement, --view_steps and --view_guidance the views, so that two
runs compare two choices of them; --first=32 keeps such a choice away from the objects that are reported. With
--shard=0/4 ... --shard=3/4 four processes share the objects (and --out); a last run without --shard writes what they
found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags
from safetensors import SafetensorError

from experiments import clip_metrics, report, tables
from experiments.measure import FinishedRun, Judges, evaluate_object, measure_run, open_finished_run
from experiments.programs import flags_parser, run_program
from experiments.shards import parse_shard
from im3d_jax import pipeline
from im3d_jax.cli import common, stages
from im3d_jax.errors import InputError, input_errors
from im3d_jax.data.toybox import Toybox
from im3d_jax.data.turntables import ORBIT_FRAMES
from im3d_jax.foreign import features
from im3d_jax.foreign.layouts import is_foreign
from im3d_jax.models import lpips
from im3d_jax.images.files import encode_png
from im3d_jax.output.progress import ProgressPrinter
from im3d_jax.output.run_folder import to_json
from im3d_jax.reconstruction import PRESETS


# Flags that measuring finished runs has a use for.
_OF_RUNS = ("runs", "clip", "lpips_weights", "json")
# Columns of the table of runs: heading, and where its figure is.
_RUN_COLUMNS = (
    ("views to prompt", ("views", "clip_text")),
    ("views to picture", ("views", "clip_image")),
    ("asset to prompt", ("rerendered", "clip_text")),
    ("asset to picture", ("rerendered", "clip_image")),
)


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    common.register_model_flag(values)
    flags.DEFINE_integer("objects", 32, "how many objects, from --first on", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("first", 0, "index of the first object", lower_bound=0, flag_values=values)
    flags.DEFINE_enum("quality", "standard", common.QUALITIES, "|".join(common.QUALITIES), flag_values=values)
    flags.DEFINE_list("rounds", ["0", "2"], "rounds of refinement to compare, each 0 to 2", flag_values=values)
    flags.DEFINE_integer("seed", 0, "object i is drawn with the seed SEED + i", lower_bound=0, flag_values=values)
    flags.DEFINE_string("out", "runs/eval", "folder of the results", flag_values=values)
    flags.DEFINE_string("table", None, "page whose tables are renewed, docs/results.md", flag_values=values)
    flags.DEFINE_float(
        "level", None, "time at which refinement starts (1: pure noise)", lower_bound=0.0, upper_bound=1.0,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("refine_steps", None, "solver steps a round", lower_bound=1, flag_values=values)
    flags.DEFINE_list("guidance", None, "guidance of the refinement: image,prompt", flag_values=values)
    flags.DEFINE_integer("view_steps", None, "solver steps of the views", lower_bound=1, flag_values=values)
    flags.DEFINE_list("view_guidance", None, "guidance of the views: image,prompt", flag_values=values)
    flags.DEFINE_string("clip", None, "folder of CLIP or OpenCLIP: similarities are measured", flag_values=values)
    flags.DEFINE_string("lpips_weights", None, "VGG16 and LPIPS heads: LPIPS is measured", flag_values=values)
    flags.DEFINE_list("runs", [], "finished run folders of any model to measure; nothing is drawn", flag_values=values)
    flags.DEFINE_string("json", None, "with --runs: file to write", flag_values=values)
    flags.DEFINE_string("shard", "0/1", "i/n: only objects i, i + n, i + 2 n, ...", flag_values=values)


def refinement_changes(values: flags.FlagValues) -> dict[str, Any]:
    """Fields of the refinement's `pipeline.Sampling` that the flags change.

    Raises:
        InputError: a value that cannot be used.
    """
    changes: dict[str, Any] = {}
    if values.level is not None:
        if values.level <= 0.0:
            raise InputError(f"--level={values.level}: expected more than 0; --rounds=0 leaves refinement out")
        changes["start"] = values.level
    return changes | _sampling_changes("guidance", values.refine_steps, values.guidance)


def view_changes(values: flags.FlagValues) -> dict[str, Any]:
    """Fields of the views' `pipeline.Sampling` that the flags change.

    Raises:
        InputError: a value that cannot be used.
    """
    return _sampling_changes("view_guidance", values.view_steps, values.view_guidance)


def _sampling_changes(flag: str, steps: int | None, guidance: list[str] | None) -> dict[str, Any]:
    changes: dict[str, Any] = {} if steps is None else {"steps": steps}
    if guidance is not None:
        try:
            changes["image"], changes["prompt"] = map(float, guidance)
        except ValueError:
            given = ",".join(guidance)
            raise InputError(f"--{flag}={given}: expected two numbers, image,prompt, as in 2,1.5") from None
    return changes


def parse_rounds(texts: Sequence[str]) -> tuple[int, ...]:
    """The numbers of rounds to compare, ascending.

    Raises:
        InputError: a value that is not 0 to 2, or none.
    """
    most = len(stages.REFRESH_TWELFTHS)
    allowed = [str(number) for number in range(most + 1)]
    if not texts or not set(texts) <= set(allowed):
        raise InputError(f"--rounds={','.join(texts)}: expected numbers from 0 to {most}, as in 0,{most}")
    return tuple(sorted({int(text) for text in texts}))


def load_judges(values: flags.FlagValues) -> tuple[Judges, dict[str, str]]:
    """The networks of --clip and --lpips_weights, and their names for the settings; empty without the flags.

    Raises:
        InputError: weights that cannot be used.
    """
    named, params = common.lpips_settings(values), None
    if values.lpips_weights is not None:
        with input_errors(ValueError, OSError, SafetensorError):
            params = lpips.load(values.lpips_weights)
    clip = None if values.clip is None else clip_metrics.load_clip(values.clip)
    return Judges(params, clip), named | ({} if clip is None else {"clip": clip.backbone})


@contextlib.contextmanager
def sampled_by(quality: str, views: dict[str, Any], refine: dict[str, Any]) -> Iterator[pipeline.Quality]:
    """While it lasts, `quality` draws views and refines with these fields of its two `Sampling`s changed."""
    usual = pipeline.QUALITIES[quality]
    changed = dataclasses.replace(
        usual, views=dataclasses.replace(usual.views, **views), refine=dataclasses.replace(usual.refine, **refine)
    )
    pipeline.QUALITIES[quality] = changed
    try:
        yield changed
    finally:
        pipeline.QUALITIES[quality] = usual


def check_runs(values: flags.FlagValues) -> list[FinishedRun]:
    """The run folders of --runs.

    Raises:
        InputError: a flag that they have no use for, no --clip, or a folder that is not of a finished run.
    """
    own = flags.FlagValues()
    define_flags(own)
    for name in own:
        if name not in _OF_RUNS and values[name].present:
            raise InputError(f"--{name} is for evaluations on Toybox, and --runs measures what is there; leave it away")
    if not values.runs:
        raise InputError("--runs is empty; expected run folders of `im3d generate`, as in --runs=runs/shoe,runs/mug")
    if values.clip is None:
        raise InputError("--runs needs --clip=DIR: a folder of CLIP or OpenCLIP, such as openai/clip-vit-large-patch14")
    if values.json and not pathlib.Path(values.json).resolve().parent.is_dir():
        raise InputError(f"--json={values.json}: no such folder; expected a file in a folder that is there")
    return [open_finished_run(folder) for folder in values.runs]


def run_table(records: Sequence[dict[str, Any]], mean: dict[str, Any], distance: str) -> list[str]:
    """Lines of a Markdown table of runs and their mean; a dash where there is no prompt."""
    columns = [*_RUN_COLUMNS, (f"asset to views, {distance}", ("residual", distance))]
    lines = ["| run | " + " | ".join(heading for heading, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in [*((record["run"], record) for record in records), (f"mean of {len(records)}", mean)]:
        cells = [figures[part].get(figure) for _, (part, figure) in columns]
        lines.append(f"| {name} | {' | '.join('–' if cell is None else f'{cell:.4f}' for cell in cells)} |")
    return lines


def measure_runs(values: flags.FlagValues, command: str) -> None:
    """Measures finished runs, prints a table of them and writes --json.

    Raises:
        InputError: a wrong flag, folder or weights, or a file that cannot be written.
    """
    runs, progress = check_runs(values), ProgressPrinter()
    common.start_jax()
    judges, judged_by = load_judges(values)
    network = None
    if judges.lpips is None:
        network, judged_by = features.bundled_features(), judged_by | {"perceptual_features": features.NAME}
    records = []
    for number, one in enumerate(runs, 1):
        figures = measure_run(one, judges, network)
        records.append({"run": str(one.path), "model": one.model, "prompt": one.prompt, **figures})
        progress.line(f"run {number} of {len(runs)}: {one.path}")
    mean: dict[str, dict[str, float]] = {}
    for part in ("views", "rerendered", "residual"):
        # A run without prompt has no similarity to one: each mean is over the runs that have the figure.
        names = {name: None for record in records for name in record[part]}
        found = {name: [record[part][name] for record in records if name in record[part]] for name in names}
        mean[part] = {name: sum(figures) / len(figures) for name, figures in found.items()}
    if values.json:
        content = to_json({"command": command, "settings": judged_by, "runs": records, "mean": mean})
        try:
            pathlib.Path(values.json).write_bytes(content)
        except OSError as error:
            raise InputError(f"cannot write --json={values.json} ({error.strerror}); choose another file") from None
        progress.line(f"results in {values.json}")
    distance = "perceptual" if judges.lpips is None else "lpips"
    by = "LPIPS (VGG16)" if judges.lpips is not None else f"perceptual distance on {features.NAME}"
    heading = f"Similarity by {judged_by['clip']}; {by}; views without the given one"
    print("\n".join([heading, "", *run_table(records, mean, distance)]))


def run(values: flags.FlagValues, command: str) -> None:
    """Evaluates what is not finished yet, and writes the results; or measures the runs of --runs.

    Raises:
        InputError: a wrong flag, a model that cannot be loaded, or results that cannot be read.
    """
    if values["runs"].present:
        measure_runs(values, command)
        return
    if values.json is not None:
        raise InputError("--json is for --runs; evaluations on Toybox write results.json into --out")
    if values.model != "tiny" and is_foreign(values.model):
        raise _no_turntable(values.model, "a foreign model")
    rounds, (part, parts) = parse_rounds(values.rounds), parse_shard(values.shard)
    views, refine = view_changes(values), refinement_changes(values)
    progress, out = ProgressPrinter(), pathlib.Path(values.out)
    common.start_jax()
    judges, judged_by = load_judges(values)
    model = common.load_model(values.model)
    if model.num_views != ORBIT_FRAMES:
        raise _no_turntable(values.model, f"{model.num_views} views")
    toybox = Toybox("test")
    with sampled_by(values.quality, views, refine) as sampling:
        settings = {
            "model": values.model,
            "weights_sha256": report.weights_hash(values.model),
            "machine": report.machine(),
            "versions": common.versions([name for name in common.RECORDED_PACKAGES if name != "av"]),  # no videos here
            "quality": values.quality,
            "rounds": list(rounds),
            "seed": values.seed,
            "views": dataclasses.asdict(sampling.views),
            "refine": dataclasses.asdict(sampling.refine),
            "fit": dataclasses.asdict(PRESETS[values.quality]),
            **judged_by,
        }
        results = report.Results(out, command, settings)
        chosen = range(len(toybox))[values.first : values.first + values.objects]
        if not chosen:
            raise InputError(f"--first={values.first}: the test split has the objects 0 to {len(toybox) - 1}")
        for index in chosen[part::parts]:
            if results.has(index):
                progress.line(f"object {index}: finished before")
                continue
            started = time.monotonic()
            caption, toy = toybox.item(index)
            record, picture = evaluate_object(
                model, toy, caption, rounds=rounds, quality=values.quality, seed=values.seed + index, judges=judges
            )
            (out / f"{index:03d}.png").write_bytes(encode_png(picture))
            results.add(index, {"caption": caption, **record})
            line = f"object {index} of {chosen[0]} to {chosen[-1]}, {caption}: {report.one_line(record)}"
            progress.line(f"{line}, {time.monotonic() - started:.0f} s")
    if parts > 1:
        progress.line(f"part {part} of {parts} is finished; a run without --shard writes the results")
        return
    summary = results.write(chosen)
    progress.line(f"results in {out / 'results.json'}")
    if values.table:
        tables.write_tables(pathlib.Path(values.table), tables.to_markdown(summary))
        progress.line(f"tables in {values.table}")
    print(json.dumps({bar["what"]: round(bar["measured"], 3) for bar in summary["bars"]}, indent=2))


def _no_turntable(model: str, what: str) -> InputError:
    return InputError(
        f"--model={model} ({what}) does not draw Toybox's orbits of {ORBIT_FRAMES} views; make its runs with `im3d "
        "generate` and measure them with --runs=DIR[,DIR...] --clip=WEIGHTS"
    )


parse_flags = flags_parser("evaluate")


def main(argv: Sequence[str]) -> int:
    """Returns 0, 2 for a wrong input (one line on stderr), 130 after Ctrl-C."""
    command = shlex.join(["python", "-m", "experiments.evaluate", *sys.argv[1:]])
    kept = "finished objects are kept, the same command goes on"
    return run_program("evaluate", lambda: run(flags.FLAGS, command), argv, kept)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main, flags_parser=parse_flags)
