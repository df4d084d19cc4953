"""The one place where flags become an `AssetRequest`, and what of flags is refused."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from im3d_jax.errors import InputError
from im3d_jax.output.run_folder import RESULTS
from im3d_jax.paths import define_path


if TYPE_CHECKING:
    from im3d_jax.generation.request import AssetRequest


def define_source(values: flags.FlagValues) -> None:
    """Flags that say what to draw."""
    flags.DEFINE_string("prompt", None, "what to make, in words", flag_values=values)
    define_path("image", None, "picture of the object: with alpha, or on a plain background", flag_values=values)


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
        start=values.start if "start" in values else "auto",
    )
    picture = request.read_image()
    if picture is not None:
        # A picture that cannot be used is told before JAX starts and weights are read, which takes long.
        cut_out(picture)
    return request


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
