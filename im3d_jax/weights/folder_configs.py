"""What the JSON files of a diffusers folder say beside the tensors' shapes: it is used, or it must be what we compute.

Shapes tell channels, layers and widths. Activations, numbers of groups and heads, noise schedules and the latents'
scale leave no trace in them: a file that says something else gives a wrong picture, not an error. Every field is in
one of three kinds: it must have a certain value, it does not matter here, or it is not known and named in one line.
Field names are those of diffusers' and transformers' configuration classes.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from im3d_jax.errors import WeightsError
from im3d_jax.models.clip import CLIPTextConfig, CLIPVisionConfig
from im3d_jax.models.clip_images import CLIP_MEAN, CLIP_STD
from im3d_jax.weights.presets import Preset
from im3d_jax.weights.tensor_files import read_json_if_there


_NONE = (None, False)
# Of networks: what our modules compute.
_UNET = {
    "act_fn": ("silu", "swish"), "norm_eps": (1e-5,), "flip_sin_to_cos": (True,), "freq_shift": (0,),
    "center_input_sample": _NONE, "resnet_time_scale_shift": ("default",), "time_embedding_type": ("positional",),
    "time_embedding_act_fn": _NONE, "time_embedding_dim": _NONE, "timestep_post_act": _NONE,
    "time_cond_proj_dim": _NONE, "class_embed_type": _NONE, "class_embeddings_concat": _NONE,
    "num_class_embeds": _NONE, "addition_embed_type": _NONE, "encoder_hid_dim": _NONE, "encoder_hid_dim_type": _NONE,
    "mid_block_scale_factor": (1,), "downsample_padding": (1,), "only_cross_attention": _NONE,
    "mid_block_only_cross_attention": _NONE, "dual_cross_attention": _NONE, "cross_attention_norm": _NONE,
    "resnet_skip_time_act": _NONE, "resnet_out_scale_factor": (1,), "conv_in_kernel": (3,), "conv_out_kernel": (3,),
    "attention_type": ("default",), "reverse_transformer_layers_per_block": _NONE,
}  # fmt: skip
_VAE = {
    "act_fn": ("silu", "swish"), "shift_factor": (None, 0), "latents_mean": _NONE, "latents_std": _NONE,
    "mid_block_add_attention": (True,),
}  # fmt: skip
# Told by the tensors, or without effect on what is drawn.
_UNET_FREE = (
    "in_channels", "out_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "down_block_types",
    "up_block_types", "mid_block_type", "sample_size", "num_frames", "use_linear_projection", "upcast_attention",
    "addition_time_embed_dim", "projection_class_embeddings_input_dim", "transformer_layers_per_block", "dropout",
    "addition_embed_type_num_heads", "attention_head_dim", "num_attention_heads", "norm_num_groups",
)  # fmt: skip
_VAE_FREE = (
    "in_channels", "out_channels", "block_out_channels", "layers_per_block", "down_block_types", "up_block_types",
    "latent_channels", "sample_size", "force_upcast", "use_quant_conv", "use_post_quant_conv", "scaling_factor",
    "norm_num_groups",
)  # fmt: skip
# The schedule that a network was trained with; how it is walked is the sampler's own affair.
_DISCRETE = {
    "num_train_timesteps": (1000,), "beta_start": (8.5e-4,), "beta_end": (1.2e-2,), "beta_schedule": ("scaled_linear",),
    "trained_betas": _NONE, "prediction_type": ("epsilon", "v_prediction"), "rescale_betas_zero_snr": _NONE,
    "clip_sample": _NONE, "thresholding": _NONE, "use_flow_sigmas": _NONE,
}  # fmt: skip
_EDM = {
    "prediction_type": ("v_prediction",), "sigma_min": (None, 0.002), "sigma_max": (None, 700.0), "sigma_data": (1.0,),
    "timestep_type": ("continuous",), "thresholding": _NONE, "use_flow_sigmas": _NONE,
}  # fmt: skip
# Of networks that were distilled for other samplers, or trained on another noise.
_OTHER_SAMPLERS = ("FlowMatch", "LCM", "TCD", "Consistency", "CMStochastic", "AmusedScheduler", "VQDiffusion")


def apply_configs(
    folder: pathlib.Path, preset: Preset, unet: Mapping[str, Any], where: pathlib.Path
) -> tuple[Preset, str]:
    """The preset as the configurations of a folder have it; missing files and fields leave it as it is.

    Args:
        folder: Of the model, with the folders `unet`, `vae`, `scheduler` and that of an encoder.
        preset: Of the family.
        unet: Content of the UNet's config.json.
        where: Path of that file.

    Returns:
        The preset with the autoencoder's scale, and a line on fields that are not known; empty for none.

    Raises:
        WeightsError: A field has a value that this code does not compute.
    """
    _check(unet, where, {**_UNET, "norm_num_groups": (preset.unet.groups,)})
    _check_heads(unet, where, preset.unet.heads)
    unknown = _unknown(unet, "unet", (*_UNET, *_UNET_FREE))
    where = folder / "vae" / "config.json"
    vae = read_json_if_there(where)
    _check(vae, where, {**_VAE, "norm_num_groups": (preset.autoencoder.groups,)})
    unknown += _unknown(vae, "vae", (*_VAE, *_VAE_FREE))
    if vae.get("scaling_factor") is not None:
        preset = with_scaling_factor(preset, vae["scaling_factor"], str(where))
    _check_scheduler(folder / "scheduler" / "scheduler_config.json", preset)
    _check_encoder(folder, preset)
    return preset, f"fields that are not known and have no effect: {', '.join(unknown)}" if unknown else ""


def with_scaling_factor(preset: Preset, factor: object, where: str) -> Preset:
    """The preset with the factor between the autoencoder's latents and the network's.

    Args:
        preset: Of the family.
        factor: A number, or its text in a record.
        where: For messages.

    Raises:
        WeightsError: It is no positive number.
    """
    try:
        number = math.nan if isinstance(factor, bool) else float(factor)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 1e-6 < number < 1e6:
        raise WeightsError(f"{where}: scaling_factor is {str(factor)[:40]!r}, expected a positive number as 0.18215")
    return dataclasses.replace(preset, autoencoder=dataclasses.replace(preset.autoencoder, scaling_factor=number))


def _check_scheduler(path: pathlib.Path, preset: Preset) -> None:
    scheduler = read_json_if_there(path)
    name = str(scheduler.get("_class_name", ""))
    if name.startswith(_OTHER_SAMPLERS):
        raise WeightsError(f"{path}: {name[:60]} is not supported: the networks are trained for another sampler")
    discrete = {**_DISCRETE, "rescale_betas_zero_snr": (True,)} if preset.noise == "zero_snr" else _DISCRETE
    _check(scheduler, path, _EDM if preset.noise == "edm" else discrete)


def _check_encoder(folder: pathlib.Path, preset: Preset) -> None:
    config = preset.image_encoder or (preset.text_encoders[0] if preset.text_encoders else None)
    if isinstance(config, CLIPTextConfig | CLIPVisionConfig):
        where = folder / ("image_encoder" if preset.image_encoder else "text_encoder") / "config.json"
        allowed = {
            "hidden_act": (config.activation,),
            "num_attention_heads": (config.heads,),
            "layer_norm_eps": (config.eps,),
        }
        _check(read_json_if_there(where), where, allowed)
    if preset.image_encoder:
        where = folder / "feature_extractor" / "preprocessor_config.json"
        found = read_json_if_there(where)
        for field, wanted in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)):
            if field in found and not _equal(found[field], wanted):
                raise _refusal(where, field, found[field], (list(wanted),))


def _check_heads(unet: Mapping[str, Any], where: pathlib.Path, heads: tuple[int, ...]) -> None:
    # UNet2DConditionModel's attention_head_dim holds the number of heads.
    for field in ("num_attention_heads", "attention_head_dim"):
        found = unet.get(field)
        if found is not None:
            if not _equal([found] * len(heads) if isinstance(found, int) else found, heads):
                raise _refusal(where, field, found, (list(heads),))
            return


def _check(fields: Mapping[str, Any], where: pathlib.Path, allowed: Mapping[str, tuple]) -> None:
    for field, values in allowed.items():
        if field in fields and not any(_equal(fields[field], value) for value in values):
            raise _refusal(where, field, fields[field], values)


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, tuple | list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_equal, found, wanted))
    if isinstance(wanted, bool) or wanted is None or isinstance(wanted, str):
        return found is wanted or (isinstance(wanted, str) and found == wanted)
    # JSON has integers that no float holds.
    number = isinstance(found, int | float) and not isinstance(found, bool) and abs(found) < 1e300
    return number and math.isclose(found, wanted, rel_tol=1e-6)


def _refusal(where: pathlib.Path, field: str, found: Any, values: tuple) -> WeightsError:
    expected = " or ".join(repr(value) for value in values)
    return WeightsError(
        f"{where}: {field} is {str(found)[:60]!r}, which is not supported (expected {expected}): it would give other "
        "pictures than the model's own program"
    )


def _unknown(fields: Mapping[str, Any], network: str, known: tuple[str, ...]) -> list[str]:
    """Fields that are not known and set to something; `_class_name` and the like only name where a file is from."""
    return [
        f"{network}.{name[:40]}"
        for name, value in fields.items()
        if not name.startswith("_") and name not in known and value is not None and value is not False
    ]
