"""Flags that the commands share with programs outside of them, and the whole of `im3d batch`.

Importing it loads no JAX, so wrong flags are told before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from absl import flags

from im3d_jax import environment, seeds
from im3d_jax.choices import Direction, Quality, Start
from im3d_jax.errors import InputError
from im3d_jax.number_flags import define_float, define_integer
from im3d_jax.paths import define_path


if TYPE_CHECKING:
    from im3d_jax.generation.plan import PerceptualChoice
    from im3d_jax.pipelines import Pipeline


QUALITIES, DIRECTIONS, STARTS = get_args(Quality), get_args(Direction), get_args(Start)
MEMORIES = ("16gb", "24gb", "80gb")


def define_run(values: flags.FlagValues) -> None:
    """Flags of every command that makes a run folder."""
    define_path("out", None, "folder of the results; the same command resumes there", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "remove the results in --out and start over", flag_values=values)
    define_integer(
        "seed", 0, "random seed; the same seed gives the same files", lower_bound=0, upper_bound=seeds.LARGEST,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum("quality", "standard", QUALITIES, "speed against quality", flag_values=values)
    define_model(values)


def define_model(values: flags.FlagValues) -> None:
    """The flag that chooses the weights."""
    define_path(
        "model", "tiny", "`tiny` (bundled), the folder of another bundle, or weights of SV3D or SVD (folder, file or "
        "hub id)", flag_values=values,
    )  # fmt: skip


def define_drawing(values: flags.FlagValues) -> None:
    """Flags of commands that draw."""
    define_float(
        "elevation_deg", None, "elevation of the cameras in degrees; estimated if not given", lower_bound=-89.0,
        upper_bound=89.0, flag_values=values,
    )  # fmt: skip
    define_path(
        "image_model", None, "model that draws the first picture from the prompt: Stable Diffusion, or tiny",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "orbit_direction", "auto", DIRECTIONS, "SV3D, SVD: direction of the orbit seen from above; auto tries both",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "memory", None, MEMORIES, "SV3D, SVD: memory preset; the largest that fits by default", flag_values=values
    )


def define_fit(values: flags.FlagValues) -> None:
    """Flags of commands that fit an asset to drawn views."""
    define_integer("rounds", 2, "rounds of refinement, 0 to 2", lower_bound=0, upper_bound=2, flag_values=values)
    flags.DEFINE_enum(
        "start", "auto", STARTS, "where the fit starts: on the surface of the views' hull, in IM-3D's ball, or as the "
        "model's quality says", flag_values=values,
    )  # fmt: skip
    define_path(
        "lpips_weights", None, "perceptual loss of the fit: files with VGG16 and the LPIPS heads, or lpips-j",
        flag_values=values,
    )  # fmt: skip


def model_of(values: flags.FlagValues) -> Pipeline:
    """The `Pipeline` of a command's flags, ready to draw.

    Raises:
        InputError: The weights cannot be used.
    """
    from im3d_jax.pipelines import load

    image_model, memory = (values[name].value if name in values else None for name in ("image_model", "memory"))
    return load(values.model, image_model=image_model, memory=memory)


def lpips_of(values: flags.FlagValues) -> PerceptualChoice | None:
    """The fit's features from --lpips_weights, or None for the model's own.

    Raises:
        InputError: The weights cannot be used.
    """
    if values.lpips_weights is None:
        return None
    from im3d_jax.generation.plan import PerceptualChoice

    return PerceptualChoice.of(values.lpips_weights)


def out_of(values: flags.FlagValues, example: str = "runs/mug") -> str:
    """--out.

    Raises:
        InputError: It is missing.
    """
    if not values.out:
        raise InputError(f"--out is missing; give the folder to write, for instance --out={example}")
    return values.out


def define_processes(values: flags.FlagValues) -> None:
    """Flags of programs that several processes run as one; see `im3d_jax.distributed`."""
    flags.DEFINE_string("coordinator", None, "several processes as one: HOST:PORT of process 0", flag_values=values)
    define_integer("processes", None, "how many processes there are", lower_bound=1, flag_values=values)
    define_integer("process", None, "number of this process", lower_bound=0, flag_values=values)


def define_batch(values: flags.FlagValues) -> None:
    """All flags of `make_lines`."""
    define_path("prompts", None, "file of JSON lines with prompt, image, seed", flag_values=values)
    define_integer("batch", None, "objects drawn at once, over all devices", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("assets", False, "fit an asset to the views of each line", flag_values=values)
    flags.DEFINE_string("shard", "0/1", "i/n: only lines i, i + n, i + 2 n, ...", flag_values=values)
    define_processes(values)
    define_fit(values)
    define_drawing(values)
    define_run(values)


def make_lines(values: flags.FlagValues, command: str) -> None:
    """Checks the flags of `define_batch` and the lines of the file, then makes what is not finished yet.

    Args:
        values: The flags.
        command: The command line, for the summary.

    Raises:
        InputError: A wrong flag or line, weights that cannot be used, or, at the end, lines that failed.
    """
    if not values.prompts:
        raise InputError("--prompts is missing; give a file of JSON lines, for instance --prompts=prompts.jsonl")
    out = out_of(values, "runs/many")
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
        start=values.start,
    )
    from im3d_jax import distributed
    from im3d_jax.progress import ProgressPrinter

    progress = ProgressPrinter()
    together = distributed.start(values.coordinator, values.processes, values.process, line=progress.line)
    if together and parts > 1:
        raise InputError("--shard is for processes that know nothing of each other; leave it out with --coordinator")
    environment.start_jax()
    from im3d_jax.generation.many import ManySettings, make_all

    settings = ManySettings(
        out,
        "asset" if values.assets else "views",
        rows=values.batch,
        overwrite=values.overwrite,
        summary="summary.json" if parts == 1 else f"summary_{part}_of_{parts}.json",
        facts={"command": command, "quality": values.quality},
    )
    model = model_of(values)
    lpips = lpips_of(values) if values.assets else None
    make_all(lines[part::parts], model, settings, progress, lpips=lpips)
