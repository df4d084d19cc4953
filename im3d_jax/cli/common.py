"""What the commands share: flags, checks that need no jax, and the start of jax itself."""

import dataclasses
import importlib.metadata
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

import im3d_jax
from im3d_jax.cli.errors import UserError, user_errors
from im3d_jax.foreign.layouts import fingerprint, head_file, is_foreign
from im3d_jax.output.run_folder import RESULTS, RunFolder, RunFolderError, file_hash, model_hash


# Found without importing the weights' package, which would import jax.
_BUNDLED = pathlib.Path(im3d_jax.__file__).parent / "weights" / "tiny"
QUALITIES = ("draft", "standard", "best")
DIRECTIONS, MEMORIES = ("auto", "ccw", "cw"), ("16gb", "24gb", "80gb")
RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow", "av")


def register_run_flags(values: flags.FlagValues) -> None:
    """Flags of every command that makes a run folder."""
    flags.DEFINE_string("out", None, "run folder to write", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "replace the results that --out holds", flag_values=values)
    largest = 2**32 - 1
    flags.DEFINE_integer("seed", 0, "same seed, same files", lower_bound=0, upper_bound=largest, flag_values=values)
    flags.DEFINE_enum("quality", "standard", QUALITIES, "|".join(QUALITIES), flag_values=values)
    register_model_flag(values)


def register_model_flag(values: flags.FlagValues) -> None:
    """The flag that chooses the weights."""
    flags.DEFINE_string(
        "model", "tiny", "`tiny`, which is bundled, or a folder; generate, views: also weights of SV3D or SVD-MV "
        "(folder, file or hub id)", flag_values=values,
    )  # fmt: skip


def register_foreign_flags(values: flags.FlagValues) -> None:
    """Flags of foreign models."""
    flags.DEFINE_string(
        "image_model", None, "what draws the first picture from the prompt: Stable Diffusion's weights, or tiny",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "orbit_direction", "auto", DIRECTIONS, "foreign models: how the views turn, seen from above; auto fits both",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "memory", None, MEMORIES, "foreign models: of the device; by default what it has room for", flag_values=values
    )


def register_lpips_flag(values: flags.FlagValues) -> None:
    """The flag that chooses the perceptual loss."""
    flags.DEFINE_string(
        "lpips_weights", None, "LPIPS (VGG16 and heads) as safetensors: the fit's perceptual loss", flag_values=values
    )


def register_source_flags(values: flags.FlagValues) -> None:
    """Flags that say what to draw."""
    flags.DEFINE_string("prompt", None, "what to make, in words", flag_values=values)
    flags.DEFINE_string(
        "image", None, "picture of the object: with alpha, or on a plain background", flag_values=values
    )
    register_elevation_flag(values)


def register_elevation_flag(values: flags.FlagValues) -> None:
    """The flag that gives the orbit's elevation."""
    flags.DEFINE_float(
        "elevation_deg", None, "elevation of the cameras, if known; estimated otherwise", lower_bound=-89.0,
        upper_bound=89.0, flag_values=values,
    )  # fmt: skip


def register_rounds_flag(values: flags.FlagValues) -> None:
    """The flag that says how often an asset is refined."""
    flags.DEFINE_integer("rounds", 2, "rounds of refinement, 0 to 2", lower_bound=0, upper_bound=2, flag_values=values)


def source_settings(values: flags.FlagValues) -> dict[str, Any]:
    """Settings of the flags of `register_source_flags`; the picture by its content, not by its path.

    Raises:
        UserError: neither prompt nor picture, an empty prompt, or a picture that cannot be used.
    """
    from im3d_jax.data.prepare import ImageError, cut_out, read_image

    if values.prompt is not None and not values.prompt.strip():
        raise UserError('--prompt is empty; say what to make, as in --prompt="a red mug", or leave it out')
    if values.prompt is not None and not _is_text(values.prompt):
        raise UserError("--prompt holds bytes that are no UTF-8 text; check the terminal's encoding")
    if values.prompt is None and values.image is None:
        raise UserError("neither --prompt nor --image is given; give one of them or both")
    if values.elevation_deg is not None and not math.isfinite(values.elevation_deg):
        raise UserError(f"--elevation_deg={values.elevation_deg}: expected degrees between -89 and 89")
    image_hash = None
    if values.image is not None:
        refuse_source_in_results(values, "--image", values.image)
        with user_errors(ImageError):
            cut_out(read_image(values.image))
        image_hash = file_hash(values.image)
    return {"prompt": values.prompt, "image_sha256": image_hash, "elevation_deg": values.elevation_deg}


def refuse_source_in_results(values: flags.FlagValues, flag: str, source: str) -> None:
    """Keeps a run from writing over, or with --overwrite removing, what it was asked to read.

    Raises:
        UserError: `source` is one of the files or folders that a run in --out writes, or lies in one.
    """
    if not values.out:
        return
    source_path, out = pathlib.Path(os.path.realpath(source)), pathlib.Path(os.path.realpath(values.out))
    if any(source_path.is_relative_to(out / name) for name in RESULTS):
        raise UserError(f"{flag}={source} is among the results in --out, which would be lost; copy it elsewhere first")


def _is_text(argument: str) -> bool:
    """Whether the argument was valid UTF-8; Python stands in lone surrogates for bytes that are not."""
    return not any(0xD800 <= ord(letter) < 0xE000 for letter in argument)


def run_settings(values: flags.FlagValues) -> dict[str, Any]:
    """Settings of the flags of `register_run_flags`; weights by their folder's full path and their content.

    The content counts because a folder may get other weights between two runs: their results must not mix.

    Raises:
        UserError: --model is empty.
    """
    if not values.model:
        raise UserError("--model is empty; expected `tiny` or a folder of weights")
    model, weights = _identify(values.model)
    settings = {"model": model, "model_sha256": weights, "seed": values.seed, "quality": values.quality}
    return settings | _resolved(values.model, values.quality)


def _resolved(model: str, quality: str) -> dict[str, Any]:
    """What the quality stands for in this version: results of another version's must not be mixed with it."""
    # Imported late, as by all commands: these import JAX.
    from im3d_jax import pipeline
    from im3d_jax.foreign import recipes
    from im3d_jax.reconstruction import PRESETS
    from im3d_jax.weights import WeightsError
    from im3d_jax.weights.checkpoints import open_checkpoint

    if model != "tiny" and is_foreign(model):
        settings = {"fit": dataclasses.asdict(recipes.fit_config(quality))}
        try:
            preset = open_checkpoint(model).preset
        except WeightsError:
            return settings  # loading says what is wrong
        if (recipe := recipes.RECIPES.get(preset.name)) is None:
            return settings
        sampling = dataclasses.asdict(recipes.sampling(preset.steps, quality))
        sampling |= {"guidance": [preset.guidance, preset.guidance_low, preset.guidance_high], "frames": preset.frames}
        search = dataclasses.asdict(recipe.search)
        return settings | {"sampling": sampling | {"refine_sigmas": recipe.refine_sigmas}, "search": search}
    return {
        "sampling": dataclasses.asdict(pipeline.QUALITIES[quality]),
        "fit": dataclasses.asdict(PRESETS[quality]),
    }


def _picture_sampling(model: str, quality: str) -> dict[str, Any]:
    """What the quality stands for where a model draws the first picture for another one."""
    from im3d_jax import pipeline
    from im3d_jax.foreign import pictures

    if model != "tiny" and is_foreign(model):
        return {"steps": pictures.STEPS[quality], "suffix": pictures.SUFFIX}
    return dataclasses.asdict(pipeline.QUALITIES[quality])


def _identify(model: str) -> tuple[str, str | None]:
    """Name or full path of a model, and the hash of its content; None where loading it will say what is wrong."""
    if model == "tiny":
        return model, model_hash(_BUNDLED)
    if not os.path.exists(model):
        return model, None
    path = pathlib.Path(model).resolve()
    with user_errors(OSError):
        return str(path), fingerprint(path) if is_foreign(path) else model_hash(path)


def find_weights(values: flags.FlagValues) -> None:
    """Puts the paths of hub ids in place of --model and --image_model.

    Raises:
        UserError: a model is neither here nor to be had, or --image_model is empty.
    """
    for name in ("model", "image_model"):
        model = values[name].value
        if model is None or model == "tiny" or os.path.exists(model):
            continue
        from im3d_jax.weights.hub import HUB_ID

        # Of --model everything else is left to the loader, which knows what it lacks; the other has that one's loader.
        if name == "model" and not HUB_ID.fullmatch(model):
            continue
        if not model:
            raise UserError(
                f"--{name} is empty; expected Stable Diffusion's weights (folder, file or hub id) or `tiny`"
            )
        from im3d_jax.weights import WeightsError
        from im3d_jax.weights.hub import find_model

        with user_errors(WeightsError):
            values[name].value = str(find_model(model, f"--{name}"))


def foreign_settings(values: flags.FlagValues) -> dict[str, Any]:
    """Settings of the flags of `register_foreign_flags` that decide something; none for the bundled model alone.

    Raises:
        UserError: a flag that the model has no use for, or a prompt that nothing can draw.
    """
    settings: dict[str, Any] = {}
    foreign = values.model != "tiny" and is_foreign(values.model)
    if foreign:
        if values.image is None and values.image_model is None:
            raise UserError(
                f"--model={values.model} starts from a picture: give --image=FILE, or what draws it from the prompt as "
                "--image_model=DIR (Stable Diffusion) or --image_model=tiny"
            )
        # Not --memory, which decides no more than rounding: a run that ran out of it goes on with a smaller one.
        settings["orbit_direction"] = values.orbit_direction
        head = head_file(values.model)
        if values.elevation_deg is None and head.is_file():
            with user_errors(OSError):
                settings["elevation_head_sha256"] = file_hash(head)
    else:
        for name in ("orbit_direction", "memory"):
            if values[name].present:
                raise UserError(f"--{name} is for foreign models, and --model={values.model} is none; leave it away")
    if values.image_model is not None:
        if values.image is not None:
            raise UserError("--image and --image_model are both given; the picture comes from one of them")
        model, weights = _identify(values.image_model)
        settings |= {"image_model": model, "image_model_sha256": weights}
        settings["image_sampling"] = _picture_sampling(values.image_model, values.quality)
    return settings


def open_run(values: flags.FlagValues, settings: dict[str, Any]) -> RunFolder:
    """Checks the run folder of `--out`, changing nothing in it.

    Raises:
        UserError: --out is missing, not writable, or holds results of other settings.
    """
    if not values.out:
        raise UserError("--out is missing; give the folder to write, for instance --out=runs/mug")
    with user_errors(RunFolderError):
        return RunFolder(values.out, settings, overwrite=values.overwrite)


def versions(packages: Sequence[str] = RECORDED_PACKAGES) -> dict[str, str]:
    """Versions of the packages that decide the bytes of the results."""
    recorded = {name: importlib.metadata.version(name) for name in packages}
    return {"im3d_jax": im3d_jax.__version__, **recorded}


def compilation_cache() -> pathlib.Path:
    """Folder of compiled programs: that of two environment variables, or one in the user's cache."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "IM3D_COMPILATION_CACHE_DIR"):
        if os.environ.get(name):
            return pathlib.Path(os.environ[name])
    user_cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(user_cache) / "im3d" / "compiled"


def start_jax() -> None:
    """Imports jax, turns the persistent compilation cache on, and finds the devices.

    Raises:
        UserError: the platform asked for by JAX_PLATFORMS is not there.
    """
    import jax

    jax.config.update("jax_compilation_cache_dir", str(compilation_cache()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    try:
        jax.devices()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"jax finds no device ({reason}); check JAX_PLATFORMS and the driver") from error


def load_model(name: str, **options):
    """The pipeline of `--model`; `options` are those of `pipeline.load`, for foreign models.

    Raises:
        UserError: there is no such model, its files are damaged, or the device has too little memory for it.
    """
    from im3d_jax import pipeline
    from im3d_jax.weights import WeightsError

    with user_errors(WeightsError):
        return pipeline.load(name, **options)


def load_models(values: flags.FlagValues, *, fits: bool):
    """The pipelines of --model and, or None, of --image_model.

    Args:
        values: Flags of generate or views.
        fits: Whether a fit follows.

    Raises:
        UserError: see `load_model`.
    """
    options: dict[str, Any] = {}
    if values.model != "tiny" and is_foreign(values.model):
        from im3d_jax.foreign.recipes import fit_config

        elevation = None if values.elevation_deg is None else math.radians(values.elevation_deg)
        options = {"memory": values.memory, "elevation": elevation}
        options["fit"] = fit_config(values.quality) if fits else None
    model = load_model(values.model, **options)
    if values.image_model is None:
        return model, None
    from im3d_jax import pipeline
    from im3d_jax.weights import WeightsError

    with user_errors(WeightsError):
        return model, pipeline.load_pictures(values.image_model)


def load_perceptual(values: flags.FlagValues, model) -> tuple[Any, str] | None:
    """Network of the fit's perceptual term and its name, or None for the model's own.

    Raises:
        UserError: the file of --lpips_weights cannot be used.
    """
    if values.lpips_weights is not None:
        import jax
        from safetensors import SafetensorError

        from im3d_jax.models import lpips

        with user_errors(ValueError, OSError, SafetensorError):
            params = lpips.load(values.lpips_weights)
        return lpips.as_perceptual(params, half=jax.default_backend() != "cpu"), "LPIPS (VGG16)"
    if model.recipe is None:
        return None
    from im3d_jax.foreign import features

    return features.bundled_features(), features.NAME


def lpips_settings(values: flags.FlagValues) -> dict[str, Any]:
    """The hash of the file of --lpips_weights; nothing without one.

    Raises:
        UserError: there is no such file.
    """
    if values.lpips_weights is None:
        return {}
    if not os.path.isfile(values.lpips_weights):
        raise UserError(f"--lpips_weights={values.lpips_weights}: no such file; expected VGG16 and the LPIPS heads")
    return {"lpips_sha256": file_hash(values.lpips_weights)}
