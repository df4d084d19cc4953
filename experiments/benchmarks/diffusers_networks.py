"""diffusers' networks of the sizes of a preset, timed beside ours; imports diffusers and torch where they are used."""

# The packages of the peers stand beside a CUDA build of PyTorch alone.
# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

from experiments.benchmarks.timing import timed
from im3d_jax.weights.presets import Preset


def diffusers_case(what: str, preset: Preset, repeats: int, compiled: bool) -> dict[str, Any]:
    """Times diffusers' network of the same sizes on the same device.

    Args:
        what: ``unet``, in bfloat16, or ``decoder``, in float16.
        preset: Of a family.
        repeats: Timed calls.
        compiled: Whether to time the UNet under torch.compile as well.
    """
    import diffusers
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    side = preset.height // 8, preset.width // 8
    figures: dict[str, Any] = {"diffusers": diffusers.__version__, "torch": torch.__version__}
    if what == "unet":
        config = preset.unet
        network = diffusers.UNetSpatioTemporalConditionModel(
            num_frames=preset.frames,
            addition_time_embed_dim=config.vector_dims[0],
            projection_class_embeddings_input_dim=config.vector_dims[0] * len(config.vector_dims),
        )
        network = network.to("cuda", torch.bfloat16).eval()
        on_device = {"device": "cuda", "dtype": torch.bfloat16}
        inputs = (
            torch.randn(2, preset.frames, config.in_channels, *side, **on_device),
            torch.zeros(2, device="cuda"),
            torch.randn(2, 1, config.context_dims[0], **on_device),
            torch.zeros(2, len(config.vector_dims), **on_device),
        )
        call = lambda module: module(*inputs, return_dict=False)  # noqa: E731
    else:
        temporal = preset.autoencoder.temporal_decoder
        kind = diffusers.AutoencoderKLTemporalDecoder if temporal else diffusers.AutoencoderKL
        levels = len(preset.autoencoder.channels)
        blocks = {"block_out_channels": preset.autoencoder.channels, "layers_per_block": 2}
        blocks["down_block_types"] = ("DownEncoderBlock2D",) * levels
        if not temporal:
            blocks["up_block_types"] = ("UpDecoderBlock2D",) * levels
        network = kind(**blocks).to("cuda", torch.float16).eval()
        latents = torch.randn(preset.frames, 4, *side, device="cuda", dtype=torch.float16)
        more = {"num_frames": preset.frames} if temporal else {}
        call = lambda module: module.decode(latents, **more, return_dict=False)  # noqa: E731
    module = network
    for name in ("eager", "compiled") if compiled and what == "unet" else ("eager",):
        module = network if name == "eager" else torch.compile(network)
        torch.cuda.reset_peak_memory_stats()

        def once(module=module):
            with torch.no_grad():
                call(module)
            torch.cuda.synchronize()

        for key, value in timed(once, repeats).items():
            figures[f"{name}_{key}"] = value
        figures[f"{name}_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    del network, module
    torch.cuda.empty_cache()  # the next case's arrays are JAX's
    return figures
