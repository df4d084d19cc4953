"""Properties of PLY files beyond the original layout: one that is applied, some that are refused, the rest named.

Programs that derive from the original 3D Gaussian splatting code add properties to its layout. A property that changes
where gaussians are or what they look like must not be skipped in silence.
"""

import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from splat.io.files import Malformed, sigmoid, warn


FILTER = "filter_3D"
_KNOWN = re.compile(
    rf"[xyz]|n[xyz]|f_dc_[012]|f_rest_\d+|opacity|scale_[012]|rot_[0123]|red|green|blue|{re.escape(FILTER)}"
)
# Of the layouts of 4D Gaussian splatting, SpacetimeGaussians, Scaffold-GS and Deformable Beta Splatting. A file may
# hold the original's properties beside them, which alone would give another picture than its own program draws.
# What it is, by the names of properties that only such files have.
_REFUSED = {
    "gaussians that move (4D Gaussian splatting)": r"t|time|scale_t|rot_r_\d+|trbf_\w+|motion_\d+|omega_\d+",
    "anchors of a network (Scaffold-GS)": r"f_offset_?\d+|f_anchor_feat_\d+|anchor_\w+|mlp_\w+",
    "another kernel than a gaussian": r"beta|betas_?\d*|sb_params_?\d*|shape|kernel_\w+",
    "more than three scales or four rotation components": r"scale_([3-9]|\d\d+)|rot_([4-9]|\d\d+)",
}
_SHOWN = 6


def check_properties(names: Iterable[str]) -> None:
    """Refuses properties that change the picture and are not supported, and warns of others that are skipped.

    Args:
        names: Of the vertex element's properties.

    Raises:
        Malformed: A property of the first kind.
    """
    others = [name for name in names if _KNOWN.fullmatch(name) is None]
    for what, pattern in _REFUSED.items():
        for name in others:
            if re.fullmatch(pattern, name):
                raise Malformed(f"has the property {name[:40]!r} of {what}, which is not read")
    if others:
        shown = ", ".join(name[:40] for name in others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
        warn(f"properties that are not read: {shown}")


def fuse_filter(
    log_scales: Float[np.ndarray, "N 3"], opacity_logits: Float[np.ndarray, "N"], filter_3d: Float[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N"]]:
    """Gaussians convolved with Mip-Splatting's 3D smoothing filter (Yu et al., arXiv 2311.16493, equation 9).

    With standard deviations s, opacity o and the filter's f: s' = sqrt(s^2 + f^2), o' = o sqrt(prod s^2 / prod s'^2).

    Args:
        log_scales: [N, 3] logarithms of s.
        opacity_logits: [N] logits of o.
        filter_3d: [N] f, in units of the world; 0 changes nothing.

    Returns:
        Log scales [N, 3] and opacity logits [N] of s' and o', float64.
    """
    scales, logits = log_scales.astype(np.float64), opacity_logits.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        fused = 0.5 * np.logaddexp(2.0 * scales, 2.0 * np.log(np.abs(filter_3d.astype(np.float64)))[:, None])
        opacity = sigmoid(logits) * np.exp((scales - fused).sum(axis=1))
        changed = np.log(opacity) - np.log1p(-opacity)
    same = filter_3d == 0
    return np.where(same[:, None], scales, fused), np.where(same, logits, changed)
