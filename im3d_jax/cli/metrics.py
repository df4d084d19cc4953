"""Figures of metrics.json."""

import jax.numpy as jnp
import numpy as np

from im3d_jax.models import lpips as lpips_distance
from im3d_jax.models.ssim import psnr, ssim
from im3d_jax.output.images import on_white


def compare(renders: np.ndarray, images: np.ndarray, lpips: lpips_distance.Params | None = None) -> dict[str, float]:
    """Mean PSNR (dB), SSIM and, with parameters, LPIPS of straight-alpha images `[V, H, W, 4]` on white."""
    rendered, true = jnp.asarray(on_white(renders)), jnp.asarray(on_white(images))
    figures = {
        "psnr": round(float(jnp.mean(psnr(rendered, true))), 4),
        "ssim": round(float(jnp.mean(ssim(rendered, true))), 5),
    }
    if lpips is not None:
        # One view at a time: the features of all of a capture need not fit into memory.
        pairs = zip(rendered, true, strict=True)
        distances = [float(lpips_distance.lpips(lpips, a[None], b[None])[0]) for a, b in pairs]
        figures["lpips"] = round(float(np.mean(distances)), 5)
    return figures
