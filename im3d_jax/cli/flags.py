"""The flags of the commands, and the one place where flags become an `AssetRequest`."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING, get_args

from absl import flags

from im3d_jax import seeds
from im3d_jax.choices import Direction, Quality
from im3d_jax.errors import InputError
from im3d_jax.output.run_folder import RESULTS


if TYPE_CHECKING:
    from im3d_jax.generation.plan import PerceptualChoice
    from im3d_jax.generation.request import AssetRequest
    from im3d_jax.pipelines import Pipeline


QUALITIES, DIRECTIONS, MEMORIES = get_args(Quality), get_args(Direction), ("16gb", "24gb", "80gb")


def define_run(values: flags.FlagValues) -> None:
    """Flags of every command that makes a run folder."""
    flags.DEFINE_string("out", None, "folder of the results; the same command resumes there", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "remove the results in --out and start over", flag_values=values)
    flags.DEFINE_integer(
        "seed", 0, "random seed; the same seed gives the same files", lower_bound=0, upper_bound=seeds.LARGEST,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum("quality", "standard", QUALITIES, "speed against quality", flag_values=values)
    define_model(values)


def define_model(values: flags.FlagValues) -> None:
    """The flag that chooses the weights."""
    flags.DEFINE_string(
        "model", "tiny", "`tiny` (bundled), the folder of another bundle, or weights of SV3D or SVD (folder, file or "
        "hub id)", flag_values=values,
    )  # fmt: skip


def define_drawing(values: flags.FlagValues) -> None:
    """Flags of commands that draw."""
    flags.DEFINE_float(
        "elevation_deg", None, "elevation of the cameras in degrees; estimated if not given", lower_bound=-89.0,
        upper_bound=89.0, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
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


def define_source(values: flags.FlagValues) -> None:
    """Flags that say what to draw."""
    flags.DEFINE_string("prompt", None, "what to make, in words", flag_values=values)
    flags.DEFINE_string(
        "image", None, "picture of the object: with alpha, or on a plain background", flag_values=values
    )


def define_fit(values: flags.FlagValues) -> None:
    """Flags of commands that fit an asset to drawn views."""
    flags.DEFINE_integer("rounds", 2, "rounds of refinement, 0 to 2", lower_bound=0, upper_bound=2, flag_values=values)
    flags.DEFINE_string(
        "lpips_weights", None, "perceptual loss of the fit: files with VGG16 and the LPIPS heads, or lpips-j",
        flag_values=values,
    )  # fmt: skip


def request_of(values: flags.FlagValues) -> AssetRequest:
    """The `AssetRequest` of a command's flags.

    Raises:
        InputError: The flags contradict each other, or the picture cannot be used.
    """
    from im3d_jax.generation.request import AssetRequest
    from im3d_jax.images.cutout import cut_out

    if values.image is not None and values.image_model is not None:
        raise InputError("--image and --image_model are both given; give the picture, or the model that draws it")
    if values.image is not None:
        refuse_source_in_results(values, "--image", values.image)
    request = AssetRequest(
        prompt=values.prompt,
        image=values.image,
        seed=values.seed,
        quality=values.quality,
        rounds=values.rounds if "rounds" in values else 2,
        elevation_deg=values.elevation_deg,
        orbit_direction=values.orbit_direction,
    )
    picture = request.read_image()
    if picture is not None:
        # A picture that cannot be used is told before JAX starts and weights are read, which takes long.
        cut_out(picture)
    return request


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


def refuse_out_in_results(values: flags.FlagValues, flag: str, source: str) -> None:
    """Keeps a run from writing among the results of the run that it reads.

    Raises:
        InputError: --out is one of the files or folders that a run in `source` writes, or lies in one.
    """
    if values.out and _among_results(values.out, source):
        raise InputError(
            f"--out={values.out} is among the results in {flag}={source}; give a folder outside of it, for instance "
            "--out=runs/mug"
        )


def refuse_source_in_results(values: flags.FlagValues, flag: str, source: str) -> None:
    """Keeps a run from writing over, or with --overwrite removing, what it was asked to read.

    Raises:
        InputError: `source` is one of the files or folders that a run in --out writes, or lies in one.
    """
    if values.out and _among_results(source, values.out):
        raise InputError(
            f"{flag}={source} is among the results in --out, which this run may replace; copy it elsewhere first"
        )


def _among_results(path: str, folder: str) -> bool:
    """Whether a path is a result of a run in the folder, or lies in one."""
    inner, outer = pathlib.Path(os.path.realpath(path)), pathlib.Path(os.path.realpath(folder))
    return any(inner.is_relative_to(outer / name) for name in RESULTS)
