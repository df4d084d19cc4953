"""Draws the views of every line of a file of prompts, in batches over all devices; --assets fits assets as well.

A line is {"prompt": "a red mug", "image": "mug.png", "seed": 1} with a prompt, a picture (its path is relative to the
file) or both. Line 7 gets the run folder OUT/00007, as `im3d views` (or `im3d generate`) makes it with this seed: the
same views to rounding, whatever else is in its batch. OUT/summary.json holds the throughput. Rerun the same command to
resume an interrupted run.

A line that fails is reported and skipped. When all others are finished, the command ends with exit code 2; rerun it to
try the failed lines again. With --shard=0/4 ... --shard=3/4 four machines share the lines.
"""

import shlex
import sys

from absl import flags

from im3d_jax import environment
from im3d_jax.cli import flags as commands
from im3d_jax.errors import InputError
from im3d_jax.progress import ProgressPrinter


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("prompts", None, "file of JSON lines with prompt, image, seed", flag_values=values)
    flags.DEFINE_integer("batch", None, "objects drawn at once, over all devices", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("assets", False, "fit an asset to the views of each line", flag_values=values)
    flags.DEFINE_string("shard", "0/1", "i/n: only lines i, i + n, i + 2 n, ...", flag_values=values)
    commands.define_fit(values)
    commands.define_drawing(values)
    commands.define_run(values)


def run(values: flags.FlagValues) -> None:
    """Checks the flags and lines, then draws. Raises `InputError` for a wrong input, and for lines that failed."""
    if not values.prompts:
        raise InputError("--prompts is missing; give a file of JSON lines, for instance --prompts=prompts.jsonl")
    out = commands.out_of(values, "runs/many")
    from im3d_jax.generation.prompt_files import read_lines
    from im3d_jax.generation.shards import parse_shard

    part, parts = parse_shard(values.shard)
    lines = read_lines(
        values.prompts,
        seed=values.seed,
        quality=values.quality,
        rounds=values.rounds,
        elevation_deg=values.elevation_deg,
        orbit_direction=values.orbit_direction,
    )
    environment.start_jax()
    from im3d_jax.generation.many import ManySettings, make_all

    settings = ManySettings(
        out,
        "asset" if values.assets else "views",
        rows=values.batch,
        overwrite=values.overwrite,
        summary="summary.json" if parts == 1 else f"summary_{part}_of_{parts}.json",
        facts={"command": shlex.join(["im3d", *sys.argv[1:]]), "quality": values.quality},
    )
    model = commands.model_of(values)
    lpips = commands.lpips_of(values) if values.assets else None
    make_all(lines[part::parts], model, settings, ProgressPrinter(), lpips=lpips)
