"""Draws the views of every line of a file of prompts, in batches over all devices; with --assets also fits assets.

    python -m experiments.sample --prompts=prompts.jsonl --out=runs/many
    python -m experiments.sample --prompts=prompts.jsonl --model=DIR --batch=64 --assets --quality=best --out=runs/many

The same as `im3d batch`, with the same flags and files, for absl's launchers and flag files: see `im3d batch --help`.
"""

from __future__ import annotations

from absl import flags

from experiments.programs import Program, command_line
from im3d_jax import environment, seeds
from im3d_jax.errors import InputError
from im3d_jax.generation.many import ManySettings, make_all
from im3d_jax.generation.plan import PerceptualChoice
from im3d_jax.generation.prompt_files import read_lines
from im3d_jax.generation.shards import parse_shard
from im3d_jax.pipelines import load
from im3d_jax.progress import ProgressPrinter


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program: those of `im3d batch`."""

    def text(name: str, default: str | None, help_text: str) -> None:
        flags.DEFINE_string(name, default, help_text, flag_values=values)

    def choice(name: str, default: str | None, options: tuple[str, ...], help_text: str) -> None:
        flags.DEFINE_enum(name, default, options, help_text, flag_values=values)

    def whole(name: str, default: int | None, least: int, most: int | None, help_text: str) -> None:
        flags.DEFINE_integer(name, default, help_text, lower_bound=least, upper_bound=most, flag_values=values)

    text("prompts", None, "file of JSON lines with prompt, image, seed")
    text("out", None, "folder of the run folders")
    flags.DEFINE_bool("overwrite", False, "replace the results that --out holds", flag_values=values)
    flags.DEFINE_bool("assets", False, "also fit an asset to the views of each line", flag_values=values)
    whole("batch", None, 1, None, "objects drawn at once, over all devices")
    text("shard", "0/1", "i/n: only lines i, i + n, i + 2 n, ...")
    text("model", "tiny", "draws the views: tiny, the folder of another bundle, or weights of SV3D or SVD")
    text("image_model", None, "draws the first picture from the prompt: weights of Stable Diffusion, or tiny")
    choice("memory", None, ("16gb", "24gb", "80gb"), "SV3D, SVD: preset for the device's memory; by default what fits")
    whole("seed", 0, 0, seeds.LARGEST, "of lines that name none")
    choice("quality", "standard", ("draft", "standard", "best"), "draft|standard|best")
    whole("rounds", 2, 0, 2, "rounds of refinement, 0 to 2")
    choice("orbit_direction", "auto", ("auto", "ccw", "cw"), "SV3D, SVD: how the views turn, seen from above")
    flags.DEFINE_float(
        "elevation_deg", None, "elevation of the cameras, if known; estimated otherwise", lower_bound=-89.0,
        upper_bound=89.0, flag_values=values,
    )  # fmt: skip
    text("lpips_weights", None, "LPIPS as the fit's perceptual loss: files with VGG16 and the heads, or lpips-j")


def run(values: flags.FlagValues) -> None:
    """Draws what is not finished yet.

    Raises:
        InputError: A wrong flag or line, weights that cannot be used, or, at the end, lines that failed.
    """
    if not values.prompts:
        raise InputError("--prompts is missing; give a file of JSON lines, for instance --prompts=prompts.jsonl")
    if not values.out:
        raise InputError("--out is missing; give the folder to write, for instance --out=runs/many")
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
    settings = ManySettings(
        values.out,
        "asset" if values.assets else "views",
        rows=values.batch,
        overwrite=values.overwrite,
        summary="summary.json" if parts == 1 else f"summary_{part}_of_{parts}.json",
        facts={"command": command_line("sample"), "quality": values.quality},
    )
    lpips = PerceptualChoice.of(values.lpips_weights) if values.assets else None
    model = load(values.model, image_model=values.image_model, memory=values.memory)
    make_all(lines[part::parts], model, settings, ProgressPrinter(), lpips=lpips)


PROGRAM = Program("sample", define_flags, run, "finished lines are kept, the same command goes on")


if __name__ == "__main__":
    PROGRAM.start()
