"""The .splat format of antimatter15's viewer: 32 bytes a gaussian, no header, degree-0 colour only.

Each row: position 3 x float32, scale 3 x float32 (linear), colour and opacity 4 x uint8, quaternion wxyz 4 x uint8 (128
is zero, 128 steps are one). Little-endian. As in PLY files the frame is undeclared and does not change.
"""

import numpy as np

from splat.io.files import (
    Malformed,
    Rows,
    base_coefficients,
    base_colors,
    linear_scales,
    logarithms,
    logit,
    sigmoid,
    to_bytes,
    unit_quaternions,
)


ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def encode_splat(gaussians: Rows) -> bytes:
    """Encodes a whole file.

    Args:
        gaussians: Finite numbers, SH degree 0.

    Returns:
        32 bytes for each gaussian.
    """
    rows = np.empty(len(gaussians), ROW)
    rows["mean"] = gaussians.means
    rows["scale"] = linear_scales(gaussians.log_scales)
    colors = np.concatenate([base_colors(gaussians.sh), sigmoid(gaussians.opacity_logits)[:, None]], axis=1)
    rows["rgba"] = to_bytes(255.0 * colors)
    quats = unit_quaternions(gaussians.quats)
    # 128 steps are one, so -1 fits into a byte and +1 does not: take the sign that is not clipped.
    largest = np.take_along_axis(quats, np.abs(quats).argmax(axis=1)[:, None], axis=1)
    rows["quat"] = to_bytes(128.0 - 128.0 * np.sign(largest) * quats)
    return rows.tobytes()


def decode_splat(data: bytes) -> Rows:
    """Decodes a whole file.

    Args:
        data: Its bytes.

    Returns:
        Gaussians of SH degree 0.

    Raises:
        Malformed: Not a whole number of rows, or a number that is not finite, or a negative scale.
    """
    if not data or len(data) % ROW.itemsize:
        raise Malformed(f"has {len(data)} bytes, not a positive multiple of {ROW.itemsize}")
    rows = np.frombuffer(data, ROW)
    sound = np.isfinite(rows["mean"]).all(axis=1) & np.isfinite(rows["scale"]).all(axis=1)
    if not sound.all():
        raise Malformed(f"row {int(sound.argmin())} holds a number that is not finite")
    sound = (rows["scale"] >= 0).all(axis=1)
    if not sound.all():
        row = int(sound.argmin())
        raise Malformed(
            f"row {row} holds the scale {rows['scale'][row].min():.3g}, expected 0 or more (scales are linear; "
            "logarithms need exp first)"
        )
    rgba = rows["rgba"] / 255.0
    return Rows(
        means=rows["mean"],
        quats=unit_quaternions((rows["quat"].astype(np.float64) - 128.0) / 128.0),
        log_scales=logarithms(rows["scale"]),
        # Half a step from 0 and 1, so that the opacity stays finite and rounds to the same byte again.
        opacity_logits=logit(rgba[:, 3], 0.25 / 255.0),
        sh=base_coefficients(rgba[:, :3]),
    )
