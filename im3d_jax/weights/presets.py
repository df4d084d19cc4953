"""What is published about each foreign family: sizes, how it was trained, how its authors sample it.

Sources: the configs of diffusers' model repositories and of Stability-AI/generative-models (scripts/sampling/configs,
configs/inference), and for ``emu_video`` tables 1 to 3 of arXiv 2311.10709; no weights of the latter are public.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from im3d_jax.models.clip import (
    CLIP_TEXT_L14,
    CLIP_VISION_H14,
    OPENCLIP_TEXT_H,
    CLIPTextConfig,
    CLIPVisionConfig,
)
from im3d_jax.models.kl_autoencoder import KLAutoencoderConfig
from im3d_jax.models.stable_unet import StableUNetConfig
from im3d_jax.models.t5 import T5_XL, T5Config


NormEps = Literal["diffusers", "sgm"]


@dataclasses.dataclass(frozen=True)
class Preset:
    """A family of foreign weights.

    Attributes:
        name: Of the family.
        unet, autoencoder: Sizes.
        image_encoder: Encoder of the picture that is the cross-attention context, if any.
        text_encoders: Encoders of the prompt, one for each context.
        frames: Views or frames of a video; 1 for text-to-image networks.
        height, width: Pixels of what it was trained on.
        vector: Names of the scalar conditions, in the order of `unet.vector_dims`.
        noise: ``edm`` (Karras sigmas from 700 to 0.002) or ``discrete`` (1,000 steps, scaled-linear betas) or
            ``zero_snr`` (the same, rescaled to zero terminal signal-to-noise ratio).
        prediction: ``v`` or ``epsilon``.
        given_view: Which frame the conditioning picture is.
        noise_strength: Of the conditioning picture's noise.
        guidance, guidance_low, guidance_high: The curve of guidance scales over frames.
        steps: Solver steps of the authors' own sampler.
        norm_eps: Whose eps the UNet's group norms follow, see `with_norm_eps`.
        padding: Token that fills a prompt's row where the tokenizer's files do not say.
        pointwise_projections: Files hold the transformers' outer projections as 1x1 convolutions.
    """

    name: str
    unet: StableUNetConfig
    autoencoder: KLAutoencoderConfig
    image_encoder: CLIPVisionConfig | None = None
    text_encoders: tuple[CLIPTextConfig | T5Config, ...] = ()
    frames: int = 1
    height: int = 512
    width: int = 512
    vector: tuple[str, ...] = ()
    noise: Literal["edm", "discrete", "zero_snr"] = "edm"
    prediction: Literal["v", "epsilon"] = "v"
    given_view: Literal["first", "last"] = "first"
    noise_strength: float = 0.0
    guidance: Literal["constant", "linear", "triangle"] = "constant"
    guidance_low: float = 1.0
    guidance_high: float = 1.0
    steps: int = 25
    norm_eps: NormEps = "sgm"
    padding: str = "<|endoftext|>"
    pointwise_projections: bool = False


def with_norm_eps(preset: Preset, norm_eps: NormEps) -> Preset:
    """The preset with the UNet's group norms as in diffusers' or in Stability AI's (sgm) code.

    sgm has 1e-5 in all residual blocks. diffusers' video UNet has 1e-6 in the blocks down that attend and in all blocks
    up, and 1e-5 elsewhere; its picture UNet agrees with sgm. The released weights were trained with sgm's.
    """
    unet = preset.unet
    plain = (1e-5,) * len(unet.channels)
    down, up = plain, plain
    if norm_eps == "diffusers" and unet.temporal == "blended":
        down = tuple(1e-6 if attends else 1e-5 for attends in unet.attention)
        up = (1e-6,) * len(unet.channels)
    unet = dataclasses.replace(unet, down_eps=down, up_eps=up)
    return dataclasses.replace(preset, unet=unet, norm_eps=norm_eps)


_SVD = with_norm_eps(
    Preset(
        "svd",
        StableUNetConfig(),
        KLAutoencoderConfig(temporal_decoder=True, post_quant_conv=False),
        image_encoder=CLIP_VISION_H14,
        frames=14,
        height=576,
        width=1024,
        vector=("fps", "motion_bucket", "noise_strength"),
        noise_strength=0.02,
        guidance="linear",
        guidance_low=1.0,
        guidance_high=3.0,
    ),
    "diffusers",
)
_SV3D = dataclasses.replace(
    with_norm_eps(_SVD, "sgm"),
    autoencoder=KLAutoencoderConfig(post_quant_conv=False),
    frames=21,
    width=576,
    given_view="last",
    noise_strength=1e-5,
    guidance="triangle",
    guidance_high=2.5,
    steps=50,
)
_SD21 = Preset(
    "sd21",
    StableUNetConfig(in_channels=4, vector_dims=(), temporal="none"),
    KLAutoencoderConfig(),
    text_encoders=(OPENCLIP_TEXT_H,),
    height=768,
    width=768,
    noise="discrete",
    guidance_low=7.5,
    guidance_high=7.5,
    steps=50,
    padding="!",  # OpenCLIP's rows end in zeros
)
# 4.20 billion parameters; the paper says 4.3 and does not publish how its temporal layers are built inside.
_EMU = Preset(
    "emu_video",
    StableUNetConfig(
        in_channels=8,
        out_channels=8,
        condition_channels=9,
        channels=(384, 768, 1536, 1536),
        layers_per_block=(3, 4, 4, 4),
        heads=(6, 12, 24, 24),
        transformer_depth=2,
        context_dims=(768, 2048),
        vector_dims=(),
        temporal="residual",
    ),
    KLAutoencoderConfig(latent_channels=8),
    text_encoders=(CLIP_TEXT_L14, T5_XL),
    frames=16,
    noise="zero_snr",
    guidance_low=7.5,
    guidance_high=7.5,
    steps=250,
)
PRESETS = {
    preset.name: preset
    for preset in (
        _SVD,
        # Stability AI's sampling config; diffusers' pipeline samples both alike, 25 steps from 1 to 3.
        dataclasses.replace(_SVD, name="svd_xt", frames=25, guidance_low=1.5, steps=30),
        dataclasses.replace(
            _SV3D,
            name="sv3d_u",
            unet=dataclasses.replace(_SV3D.unet, vector_dims=(256,)),
            vector=("noise_strength",),
        ),
        dataclasses.replace(
            _SV3D,
            name="sv3d_p",
            unet=dataclasses.replace(_SV3D.unet, vector_dims=(256, 512, 512)),
            vector=("noise_strength", "polar", "azimuth"),
        ),
        dataclasses.replace(
            _SD21,
            name="sd15",
            unet=dataclasses.replace(_SD21.unet, context_dims=(768,), heads=(8, 8, 8, 8)),
            text_encoders=(CLIP_TEXT_L14,),
            height=512,
            width=512,
            prediction="epsilon",
            padding="<|endoftext|>",
            pointwise_projections=True,
        ),
        _SD21,
        dataclasses.replace(_SD21, name="sd21_base", height=512, width=512, prediction="epsilon"),
        _EMU,
    )
}
