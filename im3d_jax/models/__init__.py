"""Networks as Flax linen modules, and the image metrics that training needs as well."""

from im3d_jax.models.autoencoder import Autoencoder, AutoencoderConfig, composite_on_white, straight_alpha
from im3d_jax.models.text import TextConfig, TextEncoder
from im3d_jax.models.video_unet import VideoUNet, VideoUNetConfig, is_temporal


__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "TextConfig",
    "TextEncoder",
    "VideoUNet",
    "VideoUNetConfig",
    "composite_on_white",
    "is_temporal",
    "straight_alpha",
]
