"""Opening a model: the one place that tells from a path which family it is."""

from __future__ import annotations

import os

import jax.numpy as jnp
from jax.typing import DTypeLike

from im3d_jax.errors import WeightsError
from im3d_jax.pipelines import bundle, stable_diffusion, svd
from im3d_jax.pipelines.base import PictureModel, Pipeline, Quality, ViewModel
from im3d_jax.pipelines.sources import open_source
from im3d_jax.reconstruction import FitConfig
from im3d_jax.weights import load_bundle
from im3d_jax.weights.hub import HUB_ID, find_model
from im3d_jax.weights.identify import holds_checkpoint


def load(
    model: str | os.PathLike = "tiny",
    *,
    image_model: str | os.PathLike | None = None,
    memory: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Pipeline:
    """Opens a model and makes it ready to draw.

    Args:
        model: Draws the views: ``tiny``, which ships with the project; a bundle's folder; or weights of SV3D_u, SV3D_p,
            SVD or SVD-XT as a diffusers folder, a single safetensors file, or a hub id (``stabilityai/sv3d``).
        image_model: Draws the first picture from a prompt, where that is not `model`: weights of Stable Diffusion 1.5
            or 2.1, ``tiny``, or a bundle's folder.
        memory: Preset of what is done at once: ``16gb``, ``24gb`` or ``80gb``; by default the roomiest that fits. Only
            for models that have presets.
        dtype: Of a bundle's activations. Foreign models take bfloat16 on accelerators and float32 on CPUs.

    Raises:
        WeightsError: One line: nothing there, damaged, of another kind, or too large for the device.
    """
    model = _path(model, "--model")
    views, pictures = open_model(model, memory=memory, dtype=dtype)
    if views is None:
        raise WeightsError(
            f"{model} draws no orbits: --model expects a bundle or weights of {', '.join(svd.FAMILIES)}; pass Stable "
            "Diffusion as --image_model"
        )
    if image_model is not None:
        image_model = _path(image_model, "--image_model")
        _, pictures = open_model(image_model, flag="--image_model")
        if pictures is None:
            raise WeightsError(
                f"{image_model} draws no pictures from prompts: --image_model expects Stable Diffusion 1.5 or 2.1, "
                "or tiny"
            )
    return Pipeline(views, pictures)


def _path(model: str | os.PathLike, flag: str) -> str:
    if not isinstance(model, str | os.PathLike):
        raise WeightsError(f"{flag}={str(model)[:40]}: expected `tiny`, a folder, a file or a hub id of weights")
    return os.fspath(model)


def open_model(
    model: str, *, memory: str | None = None, dtype: DTypeLike = jnp.float32, flag: str = "--model"
) -> tuple[ViewModel | None, PictureModel | None]:
    """A model as what draws views and as what draws pictures; None where it draws none.

    Args:
        model, memory, dtype: See `load`.
        flag: What the model was given by, for messages.

    Raises:
        WeightsError: See `load`.
    """
    if not model:
        raise WeightsError(f"{flag} is empty; expected `tiny`, a folder, a file or a hub id of weights")
    path = model
    # Everything that is neither here nor a hub id is the bundle's loader to refuse: it says what it expects.
    if model != "tiny" and not os.path.exists(model) and (HUB_ID.fullmatch(model) or flag != "--model"):
        path = str(find_model(model, flag))
    if model == "tiny" or not holds_checkpoint(path):
        if memory is not None:
            raise WeightsError(f"{model} has no memory presets; remove --memory={memory}")
        both = bundle.BundleModel(load_bundle(path), dtype)
        return both, both
    source = open_source(path)
    if source.preset.name in svd.FAMILIES:
        return svd.open_orbit_model(source, memory), None
    if source.preset.unet.temporal == "none":
        return None, stable_diffusion.open_stable_diffusion(source)
    raise WeightsError(f"{source.name} is not supported: expected {', '.join(svd.FAMILIES)}, or Stable Diffusion")


def fit_settings(family: str, quality: Quality) -> tuple[FitConfig, int | None]:
    """How the views of a family are fitted, where only the views are there.

    Args:
        family: `ViewModel.family` of what drew them; ``cameras.json`` names it.
        quality: Of the fit.

    Returns:
        The fit's settings, and the longest side of the views that it sees in pixels, or None.
    """
    settings = svd.QUALITIES[quality] if family == "svd" else bundle.QUALITIES[quality]
    return settings.fit, settings.fit_side
