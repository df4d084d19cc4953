"""What every gaussian file format shares: errors, atomic writing, rows and activations."""

import dataclasses
import math
import os
import pathlib
import tempfile
import warnings

import jax
import numpy as np

from splat.gaussians import Gaussians
from splat.harmonics import SH_C0


@dataclasses.dataclass(frozen=True)
class Rows:
    """Gaussians in numpy arrays on their way to or from a file; shapes and units are those of `Gaussians`."""

    means: np.ndarray
    quats: np.ndarray
    log_scales: np.ndarray
    opacity_logits: np.ndarray
    sh: np.ndarray

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 4."""
        return math.isqrt(self.sh.shape[1]) - 1


class Malformed(ValueError):
    """What is wrong with a file's content, without the file's name."""


class NonFinite(ValueError):
    """Gaussians to be written hold a NaN or an infinity; the message is one line."""


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the whole new one, never half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp files are private; the result gets the permissions that a plain open would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def on_host(gaussians: Gaussians, active=None) -> Rows:
    """The rows of `gaussians` where `active` ([N] bool, all by default) as numpy float32 arrays."""
    rows = slice(None) if active is None else np.asarray(active, bool)
    return Rows(
        means=np.asarray(gaussians.means, np.float32)[rows],
        quats=np.asarray(gaussians.quats, np.float32)[rows],
        log_scales=np.asarray(gaussians.log_scales, np.float32)[rows],
        opacity_logits=np.asarray(gaussians.opacity_logits, np.float32)[rows],
        sh=np.asarray(gaussians.sh, np.float32)[rows],
    )


def on_device(gaussians: Rows) -> Gaussians:
    """The same gaussians as jax float32 arrays; doubles beyond float32 become inf (renderers count it)."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        leaves = [
            np.ascontiguousarray(leaf, np.float32)
            for leaf in (
                gaussians.means,
                gaussians.quats,
                gaussians.log_scales,
                gaussians.opacity_logits,
                gaussians.sh,
            )
        ]
    return Gaussians(*jax.device_put(leaves))


def check_finite(gaussians: Rows) -> None:
    """Refuses what no reader can draw.

    Raises:
      NonFinite: some gaussians hold a NaN or an infinity.
    """
    finite = _finite(gaussians)
    if not finite.all():
        raise NonFinite(
            f"{(~finite).sum()} of {len(finite)} gaussians hold a NaN or an infinity, so nothing was written; look for "
            "cameras with extreme numbers, or leave them out with active=splat.gaussians.usable(gaussians)"
        )


def _finite(gaussians: Rows) -> np.ndarray:
    """[N] bool: every number of the row is finite."""
    leaves = (gaussians.means, gaussians.quats, gaussians.log_scales, gaussians.opacity_logits, gaussians.sh)
    return np.logical_and.reduce([np.isfinite(a).reshape(len(a), math.prod(a.shape[1:])).all(axis=1) for a in leaves])


def check_writable(gaussians: Rows, kind: str, highest_degree: int) -> Rows:
    """What a format that holds only sound gaussians can take of `gaussians`.

    Args:
      gaussians: what is to be written.
      kind: name of the format for messages.
      highest_degree: SH degree that the format holds; higher coefficients are cut off with a warning.

    Returns:
      `gaussians`, at most of that degree.

    Raises:
      ValueError: there are none, or some hold a NaN, an infinity or a zero quaternion.
    """
    if not len(gaussians):
        raise ValueError(f"there are no gaussians to write; a {kind} file holds at least one")
    sound = _finite(gaussians) & (gaussians.quats != 0).any(axis=1)
    if not sound.all():
        raise ValueError(
            f"{(~sound).sum()} of {len(sound)} gaussians hold a NaN, an infinity or a zero quaternion, which "
            f"{kind} files cannot; leave them out with active=splat.gaussians.usable(gaussians)"
        )
    if gaussians.sh_degree > highest_degree:
        warnings.warn(
            f"{kind} files hold SH degree {highest_degree}: the coefficients up to degree "
            f"{gaussians.sh_degree} are left out",
            stacklevel=4,
        )
        return dataclasses.replace(gaussians, sh=gaussians.sh[:, : (highest_degree + 1) ** 2])
    return gaussians


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)) in float64 without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))


def logit(opacity: np.ndarray, margin: float) -> np.ndarray:
    """Inverse of `sigmoid`, finite because the opacity is kept at least `margin` away from 0 and 1."""
    inside = np.clip(opacity.astype(np.float64), margin, 1.0 - margin)
    return np.log(inside) - np.log1p(-inside)


def linear_scales(log_scales: np.ndarray) -> np.ndarray:
    """exp(log_scales) in float64, kept inside what float32 can hold."""
    limits = np.finfo(np.float32)
    return np.clip(np.exp(np.clip(log_scales.astype(np.float64), -100, 100)), limits.tiny, limits.max)


def logarithms(scales: np.ndarray) -> np.ndarray:
    """log(scales) in float64 of scales from 0 up; a zero is taken as float32's smallest normal number."""
    return np.log(np.maximum(scales.astype(np.float64), np.finfo(np.float32).tiny))


def unit_quaternions(quats: np.ndarray) -> np.ndarray:
    """Quaternions [N, 4] of length one in float64; zero quaternions stay zero."""
    quats = quats.astype(np.float64)
    # The largest component comes to 1 first: squares of tiny or huge ones would leave float64 otherwise.
    largest = np.abs(quats).max(axis=1, keepdims=True, initial=0.0)
    scaled = quats / np.where(largest > 0, largest, 1.0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / np.where(length > 0, length, 1.0)


def base_colors(sh: np.ndarray) -> np.ndarray:
    """Colours [N, 3] in [0, 1] of the degree-0 coefficients of `sh` [N, K, 3]."""
    return np.clip(0.5 + SH_C0 * sh[:, 0].astype(np.float64), 0.0, 1.0)


def base_coefficients(colors: np.ndarray) -> np.ndarray:
    """Degree-0 coefficients [N, 1, 3] that show `colors` [N, 3]."""
    return ((colors.astype(np.float64) - 0.5) / SH_C0)[:, None]


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Nearest uint8, clamped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def drop_zero_degrees(sh: np.ndarray) -> np.ndarray:
    """`sh` [N, K, 3] without trailing degrees whose coefficients are all zero."""
    with np.errstate(invalid="ignore"):  # signalling NaNs of broken files
        while sh.shape[1] > 1 and not sh[:, (math.isqrt(sh.shape[1]) - 1) ** 2 :].any():
            sh = sh[:, : (math.isqrt(sh.shape[1]) - 1) ** 2]
    return sh
