"""Networks as Flax linen modules, and the image metrics that training needs as well."""

from im3d_jax.models.kl_autoencoder import KLAutoencoder, KLAutoencoderConfig
from im3d_jax.models.rgba_autoencoder import RgbaAutoencoder, RgbaAutoencoderConfig
from im3d_jax.models.stable_unet import (
    StableUNet,
    StableUNetConfig,
)
from im3d_jax.models.text import TextConfig, TextEncoder
from im3d_jax.models.tiny_unet import TinyUNet, TinyUNetConfig
from im3d_jax.models.unet_walk import is_temporal_parameter


__all__ = [
    "KLAutoencoder",
    "KLAutoencoderConfig",
    "RgbaAutoencoder",
    "RgbaAutoencoderConfig",
    "StableUNet",
    "StableUNetConfig",
    "TextConfig",
    "TextEncoder",
    "TinyUNet",
    "TinyUNetConfig",
    "is_temporal_parameter",
]
