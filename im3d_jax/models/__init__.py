"""Networks as Flax linen modules, and the image metrics that training needs as well."""

from im3d_jax.models.autoencoder import Autoencoder, AutoencoderConfig, composite_on_white, straight_alpha
from im3d_jax.models.kl_autoencoder import KLAutoencoder, KLAutoencoderConfig
from im3d_jax.models.spatio_temporal_unet import (
    SpatioTemporalUNet,
    SpatioTemporalUNetConfig,
    is_temporal_parameter,
)
from im3d_jax.models.text import TextConfig, TextEncoder
from im3d_jax.models.video_unet import VideoUNet, VideoUNetConfig, is_temporal


__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "KLAutoencoder",
    "KLAutoencoderConfig",
    "SpatioTemporalUNet",
    "SpatioTemporalUNetConfig",
    "TextConfig",
    "TextEncoder",
    "VideoUNet",
    "VideoUNetConfig",
    "composite_on_white",
    "is_temporal",
    "is_temporal_parameter",
    "straight_alpha",
]
