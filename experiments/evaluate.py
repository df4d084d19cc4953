"""Measures views, assets and refinement against the true turntables of Toybox's test split.

    python -m experiments.evaluate --objects=32 --quality=standard --rounds=0,2 --out=runs/eval

Each object goes through the loop of `im3d generate`, from its true first frame (rendered, rounded to 8 bits, not
centred anew) and its caption; its true turntable has as many frames as the model draws. Written to --out:
results.jsonl (a line for each object), results.json (the same with means and spreads), and a picture of each object.
--table=docs/results.md renews the tables of that page. The same command resumes an interrupted evaluation.

--clip=DIR (a folder with CLIP ViT-L/14, say) adds similarities to the caption and to the given picture, of the views
and of the asset rendered at their cameras; --lpips_weights=FILE adds LPIPS to all comparisons with the truth.

--level, --refine_steps and --guidance change the refinement, --view_steps and --view_guidance the views, so that two
evaluations compare two choices; --first=32 keeps such a choice away from the objects that are reported. With
--shard=0/4 ... --shard=3/4 four processes share the objects (and --out); a last command without --shard writes the
results.

Finished runs of any model are measured without a truth, and nothing is drawn:

    python -m experiments.evaluate --runs=runs/shoe,runs/mug --clip=DIR --lpips_weights=FILE --json=runs/clip.json

A line for each run folder of `im3d generate`, and their mean, on stdout: similarities to the prompt (where the run has
one) and to input.png, of the views drawn last and of the asset at their cameras, and LPIPS between the two (without its
weights, the perceptual distance on features of the bundled autoencoder). --json=FILE keeps the same.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments.evaluation import finished_runs, tables
from experiments.evaluation.comparisons import load_judges
from experiments.evaluation.objects import Evaluation, change_sampling, measure_all
from experiments.evaluation.results import Results, machine
from experiments.programs import Program, command_line
from im3d_jax import environment, seeds
from im3d_jax.data.toybox import Toybox
from im3d_jax.errors import InputError
from im3d_jax.generation.plan import PerceptualChoice
from im3d_jax.generation.request import MOST_ROUNDS
from im3d_jax.generation.shards import parse_shard
from im3d_jax.number_flags import define_float, define_integer
from im3d_jax.output.records import to_json
from im3d_jax.paths import define_path
from im3d_jax.pipelines import Pipeline, load
from im3d_jax.pipelines.base import ViewSettings
from im3d_jax.pipelines.features import encoder_features
from im3d_jax.progress import Progress, ProgressPrinter
from im3d_jax.weights import load_bundle


# Flags that measuring finished runs has a use for.
_OF_RUNS = ("runs", "clip", "lpips_weights", "json")


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    define_path("model", "tiny", "draws the views: tiny, a folder, a file or a hub id", flag_values=values)
    define_integer("objects", 32, "how many objects, from --first on", lower_bound=1, flag_values=values)
    define_integer("first", 0, "index of the first object", lower_bound=0, flag_values=values)
    flags.DEFINE_enum("quality", "standard", ("draft", "standard", "best"), "draft|standard|best", flag_values=values)
    flags.DEFINE_list("rounds", ["0", "2"], "rounds of refinement to compare, each 0 to 2", flag_values=values)
    define_integer("seed", 0, "object i is drawn with the seed SEED + i", 0, seeds.LARGEST, flag_values=values)
    define_path("out", "runs/eval", "folder of the results", flag_values=values)
    define_path("table", None, "page whose tables are renewed, docs/results.md", flag_values=values)
    define_float(
        "level", None, "time at which refinement starts (1: pure noise)", lower_bound=0.0, upper_bound=1.0,
        flag_values=values,
    )  # fmt: skip
    define_integer("refine_steps", None, "solver steps a round", lower_bound=1, flag_values=values)
    flags.DEFINE_list("guidance", None, "guidance of the refinement: image,prompt", flag_values=values)
    define_integer("view_steps", None, "solver steps of the views", lower_bound=1, flag_values=values)
    flags.DEFINE_list("view_guidance", None, "guidance of the views: image,prompt", flag_values=values)
    define_path("clip", None, "folder of CLIP or OpenCLIP: similarities are measured", flag_values=values)
    define_path("lpips_weights", None, "VGG16 and LPIPS heads: LPIPS is measured", flag_values=values)
    define_path("runs", None, "finished run folders of any model to measure; nothing is drawn", flag_values=values)
    define_path("json", None, "with --runs: file to write", flag_values=values)
    flags.DEFINE_string("shard", "0/1", "i/n: only objects i, i + n, i + 2 n, ...", flag_values=values)


def changed_settings(values: flags.FlagValues, settings: ViewSettings) -> ViewSettings:
    """Settings of a quality, changed by the flags on sampling.

    Raises:
        InputError: A value that cannot be used, or settings without such a field.
    """
    refine = _sampling_changes("guidance", values.refine_steps, values.guidance)
    if values.level is not None:
        if values.level <= 0.0:
            raise InputError(f"--level={values.level}: expected more than 0; --rounds=0 leaves refinement out")
        refine["start"] = values.level
    views = _sampling_changes("view_guidance", values.view_steps, values.view_guidance)
    return change_sampling(change_sampling(settings, "refine", refine), "views", views)


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
        InputError: A value that is not 0 to 2, or none.
    """
    allowed = [str(number) for number in range(MOST_ROUNDS + 1)]
    if not texts or not set(texts) <= set(allowed):
        raise InputError(f"--rounds={','.join(texts)}: expected numbers from 0 to {MOST_ROUNDS}, as in 0,{MOST_ROUNDS}")
    return tuple(sorted({int(text) for text in texts}))


def check_runs(values: flags.FlagValues) -> list[finished_runs.FinishedRun]:
    """The run folders of --runs.

    Raises:
        InputError: A flag that they have no use for, no --clip, or a folder that is not of a finished run.
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
    return [finished_runs.open_finished_run(folder) for folder in values.runs.split(",")]


def measure_runs(values: flags.FlagValues) -> None:
    """Measures finished runs, prints a table of them and writes --json.

    Raises:
        InputError: A wrong flag, folder or weights, or a file that cannot be written.
    """
    runs, progress = check_runs(values), ProgressPrinter()
    environment.start_jax()
    judges, judged_by = load_judges(values.clip, values.lpips_weights)
    distance, by, features = "lpips", "LPIPS (VGG16)", None
    if judges.lpips is None:
        judged_by["perceptual_features"] = "encoder features of the bundled autoencoder"
        features = encoder_features(load_bundle("tiny"))
        distance, by = "perceptual", f"perceptual distance on {judged_by['perceptual_features']}"
    records, mean = finished_runs.measure_all(runs, judges, features, progress)
    if values.json:
        command = command_line("evaluate")
        content = to_json({"command": command, "settings": judged_by, "runs": records, "mean": mean})
        try:
            pathlib.Path(values.json).write_bytes(content)
        except OSError as error:
            raise InputError(f"cannot write --json={values.json} ({error.strerror}); choose another file") from None
        progress.line(f"results in {values.json}")
    heading = f"Similarity by {judged_by['clip']}; {by}; views without the given one"
    print("\n".join([heading, "", *finished_runs.run_table(records, mean, distance)]))


def evaluate_objects(values: flags.FlagValues, pipeline: Pipeline, progress: Progress) -> None:
    """Evaluates the objects of the flags that are not finished yet, and writes the results.

    Args:
        values: The flags.
        pipeline: Draws.
        progress: Who is told.

    Raises:
        InputError: A wrong flag, weights of judges that cannot be used, or results that cannot be read or written.
    """
    rounds, (part, parts) = parse_rounds(values.rounds), parse_shard(values.shard)
    toybox = Toybox("test")
    chosen = range(len(toybox))[values.first : values.first + values.objects]
    if not chosen:
        raise InputError(f"--first={values.first}: the test split has the objects 0 to {len(toybox) - 1}")
    settings = changed_settings(values, pipeline.views.view_settings(values.quality))
    judges, judged_by = load_judges(values.clip, values.lpips_weights)
    features = PerceptualChoice(*pipeline.views.perceptual())
    evaluation = Evaluation(pipeline, values.quality, settings, rounds, features, judges)
    recorded = {
        "model": values.model,
        "weights": pipeline.views.identity(elevation_known=False),
        "machine": machine(),
        # No videos are made.
        "versions": environment.versions([name for name in environment.RECORDED_PACKAGES if name != "av"]),
        "quality": values.quality,
        "rounds": list(rounds),
        "seed": values.seed,
        "sampling": dataclasses.asdict(settings),
        **judged_by,
    }
    out = pathlib.Path(values.out)
    results = Results(out, command_line("evaluate"), recorded)
    measure_all(evaluation, toybox, chosen[part::parts], results, values.seed, progress)
    if parts > 1:
        progress.line(f"part {part} of {parts} is finished; a run without --shard writes the results")
        return
    summary = results.write(chosen)
    progress.line(f"results in {out / 'results.json'}")
    if values.table:
        tables.write_tables(pathlib.Path(values.table), tables.to_markdown(summary))
        progress.line(f"tables in {values.table}")
    print(json.dumps({bar["what"]: round(bar["measured"], 3) for bar in summary["bars"]}, indent=2))


def run(values: flags.FlagValues) -> None:
    """Evaluates objects of Toybox, or measures the runs of --runs.

    Raises:
        InputError: See `evaluate_objects` and `measure_runs`; or a model that cannot be loaded.
    """
    if values["runs"].present:
        measure_runs(values)
        return
    if values.json is not None:
        raise InputError("--json is for --runs; evaluations on Toybox write results.json into --out")
    environment.start_jax()
    evaluate_objects(values, load(values.model), ProgressPrinter())


PROGRAM = Program("evaluate", define_flags, run, "finished objects are kept, the same command goes on")


if __name__ == "__main__":
    PROGRAM.start()
