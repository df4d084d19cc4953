"""What diffusers' `StableVideoDiffusionPipeline` reads beside the networks' own configs and weights."""

from __future__ import annotations

from typing import Any

from im3d_jax.models.clip import CLIPVisionConfig
from im3d_jax.models.clip_images import CLIP_MEAN, CLIP_STD
from im3d_jax.weights.presets import Preset


def has_pipeline(preset: Preset) -> bool:
    """Whether diffusers has a pipeline for the family: it draws SVD, and has none for SV3D's conditions."""
    return preset.image_encoder is not None and preset.vector[:1] == ("fps",)


def pipeline_files(preset: Preset) -> dict[str, dict[str, Any]]:
    """{path in the folder: JSON values} of the index, the sampler, the picture encoder and its preprocessing.

    The values are those of `stabilityai/stable-video-diffusion-img2vid`.

    Args:
        preset: A family for which `has_pipeline` holds.
    """
    assert preset.image_encoder is not None
    return {
        "model_index.json": {
            "_class_name": "StableVideoDiffusionPipeline",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
            "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "EulerDiscreteScheduler",
            "beta_start": 8.5e-4,
            "beta_end": 1.2e-2,
            "beta_schedule": "scaled_linear",
            "interpolation_type": "linear",
            "num_train_timesteps": 1000,
            "prediction_type": "v_prediction",
            "sigma_max": 700.0,
            "sigma_min": 0.002,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "timestep_type": "continuous",
            "use_karras_sigmas": True,
        },
        "feature_extractor/preprocessor_config.json": _preprocessing(preset.image_encoder),
        "image_encoder/config.json": _encoder(preset.image_encoder),
    }


def _preprocessing(encoder: CLIPVisionConfig) -> dict[str, Any]:
    side = encoder.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "do_convert_rgb": True,
    }


def _encoder(encoder: CLIPVisionConfig) -> dict[str, Any]:
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": encoder.width,
        "intermediate_size": encoder.hidden,
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": encoder.heads,
        "projection_dim": encoder.projection,
        "image_size": encoder.image_size,
        "patch_size": encoder.patch,
        "hidden_act": encoder.activation,
        "layer_norm_eps": encoder.eps,
    }
