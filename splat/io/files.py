"""Shared by all file formats of gaussians: errors, atomic writing, rows and activations."""

import dataclasses
import errno
import inspect
import math
import os
import pathlib
import stat
import tempfile
import warnings
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt8

from splat.gaussians import MIN_QUATERNION, Gaussians
from splat.harmonics import SH_C0
from splat.typing import AnyArray


@dataclasses.dataclass(frozen=True)
class Rows:
    """Gaussians in numpy arrays on their way to or from a file, float32 or float64.

    Attributes:
        means: [N, 3] as in `Gaussians`.
        quats: [N, 4] as in `Gaussians`.
        log_scales: [N, 3] as in `Gaussians`.
        opacity_logits: [N] as in `Gaussians`.
        sh: [N, K, 3] as in `Gaussians`.
    """

    means: Float[np.ndarray, "N 3"]
    quats: Float[np.ndarray, "N 4"]
    log_scales: Float[np.ndarray, "N 3"]
    opacity_logits: Float[np.ndarray, "N"]
    sh: Float[np.ndarray, "N K 3"]

    def __len__(self) -> int:
        """Gaussians, N."""
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 4."""
        return math.isqrt(self.sh.shape[1]) - 1

    def take(self, chosen: Num[np.ndarray, "M"] | Bool[np.ndarray, "N"]) -> "Rows":
        """The chosen gaussians, by a mask or by indices."""
        return Rows(
            self.means[chosen],
            self.quats[chosen],
            self.log_scales[chosen],
            self.opacity_logits[chosen],
            self.sh[chosen],
        )


# Shares of a gaussian's size, and of the scene's, by which rounding may move it.
_MOST_MOVED, _VISIBLE = 0.1, 1e-6
_FOLDER = os.path.dirname(__file__)


class Malformed(ValueError):
    """A file is damaged or not supported; the message says why, without the file's name."""


class FarAway(Malformed):
    """Positions are too far from the origin for float32; the message says what to subtract."""


class NonFinite(ValueError):
    """Gaussians to write hold a NaN or an infinity; the message is one line."""


def warn(message: str) -> None:
    """Warns at the line that called a function of `splat.io`, however many functions lie between."""
    frame, level, outermost = inspect.currentframe(), 0, 0
    while frame is not None:
        level += 1
        if os.path.dirname(frame.f_code.co_filename) == _FOLDER:
            outermost = level
        frame = frame.f_back
    warnings.warn(message, stacklevel=outermost + 1)


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the whole new one, never half of it.

    Args:
        path: File to write; its folder must exist.
        content: The whole file.

    Raises:
        OSError: The file cannot be written, or `path` is a device, FIFO or socket, which a file must not replace.
    """
    _check_replaceable(path)
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


def _check_replaceable(path: pathlib.Path) -> None:
    """Refuses devices, FIFOs and sockets, and streams such as /dev/stdout: a rename would delete their names."""
    folder = os.path.realpath(path.parent)
    refused = folder == "/dev" or (folder + "/").startswith("/proc/")
    try:
        mode = os.stat(path).st_mode
        refused = refused or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))  # folders: os.replace says it
    except (OSError, ValueError):
        pass  # nothing there, or a name that no file can have
    if refused:
        raise FileExistsError(errno.EEXIST, "it is no regular file, and results are regular files", str(path))


def on_host(gaussians: Gaussians, active: Bool[AnyArray, "N"] | None = None) -> Rows:
    """Copies gaussians to numpy float32 arrays.

    Args:
        gaussians: N gaussians of one scene.
        active: [N] bool, rows to copy; None for all.

    Returns:
        `Rows`.
    """
    rows = slice(None) if active is None else np.asarray(active, bool)
    return Rows(
        means=np.asarray(gaussians.means, np.float32)[rows],
        quats=np.asarray(gaussians.quats, np.float32)[rows],
        log_scales=np.asarray(gaussians.log_scales, np.float32)[rows],
        opacity_logits=np.asarray(gaussians.opacity_logits, np.float32)[rows],
        sh=np.asarray(gaussians.sh, np.float32)[rows],
    )


def on_device(gaussians: Rows) -> Gaussians:
    """Copies gaussians to JAX float32 arrays; doubles beyond float32 become inf, which renderers count as invalid."""
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


def about(gaussians: Rows, origin: Sequence[float]) -> Rows:
    """Moves gaussians so that a point of the file becomes the origin, in float64, before they are rounded.

    Args:
        gaussians: As they were read.
        origin: [3] point of their world.

    Returns:
        Gaussians whose means float32 can hold.

    Raises:
        FarAway: One gaussian in a hundred or more would move by a tenth of its size and by a visible part of the
            scene, because they are far from the origin.
    """
    shift = np.asarray(origin, np.float64)
    if shift.shape != (3,) or not np.isfinite(shift).all():
        raise ValueError(f"origin is {origin}; expected three numbers")
    if shift.any():
        gaussians = dataclasses.replace(gaussians, means=gaussians.means.astype(np.float64) - shift[None])
    means = gaussians.means
    if means.dtype != np.float64:
        return gaussians
    with np.errstate(over="ignore", invalid="ignore"):
        lost = np.abs(means - means.astype(np.float32)).max(axis=1, initial=0.0)
        sizes = np.exp(gaussians.log_scales.astype(np.float64).max(axis=1, initial=-np.inf))
    sound = np.isfinite(lost) & np.isfinite(sizes)
    if not sound.any():
        return gaussians
    extent = np.ptp(means[sound], axis=0).max()
    moved = sound & (lost > _MOST_MOVED * sizes) & (lost > _VISIBLE * extent)
    if moved.sum() >= max(1, 0.01 * len(means)):
        centre = ", ".join(f"{number:.0f}" for number in np.median(means[sound], axis=0) + shift)
        raise FarAway(
            f"has positions about ({centre}), where float32 would move {moved.sum()} of {len(means)} gaussians by up "
            f"to {lost[sound].max():.2g}; read it with origin=({centre}), which is subtracted first"
        )
    return gaussians


def usable_rows(gaussians: Rows) -> Bool[np.ndarray, "N"]:
    """Gaussians that can be drawn: finite numbers, and a quaternion that is not zero; as `splat.gaussians.usable`."""
    return _finite(gaussians) & (np.abs(gaussians.quats) > MIN_QUATERNION).any(axis=1)


def check_finite(gaussians: Rows) -> None:
    """Refuses gaussians that no reader can draw.

    Args:
        gaussians: Rows to write.

    Raises:
        NonFinite: Some gaussians hold a NaN or an infinity.
    """
    finite = _finite(gaussians)
    if not finite.all():
        raise NonFinite(
            f"{(~finite).sum()} of {len(finite)} gaussians hold a NaN or an infinity, so nothing was written; look for "
            "cameras with extreme numbers, or leave them out with active=splat.gaussians.usable(gaussians)"
        )


def _finite(gaussians: Rows) -> Bool[np.ndarray, "N"]:
    """Rows whose numbers are all finite."""
    leaves = (gaussians.means, gaussians.quats, gaussians.log_scales, gaussians.opacity_logits, gaussians.sh)
    return np.logical_and.reduce([np.isfinite(a).reshape(len(a), math.prod(a.shape[1:])).all(axis=1) for a in leaves])


def check_writable(gaussians: Rows, kind: str, highest_degree: int) -> Rows:
    """Prepares gaussians for a format that holds only valid ones.

    Args:
        gaussians: Rows to write.
        kind: Name of the format for messages.
        highest_degree: SH degree that the format holds; higher coefficients are cut off with a warning.

    Returns:
        `gaussians`, at most of that degree.

    Raises:
        ValueError: There are no gaussians, or some hold a NaN, an infinity or a zero quaternion.
    """
    if not len(gaussians):
        raise ValueError(f"there are no gaussians to write; a {kind} file holds at least one")
    sound = _finite(gaussians) & (gaussians.quats != 0).any(axis=1)
    if not sound.all():
        raise ValueError(
            f"{(~sound).sum()} of {len(sound)} gaussians hold a NaN, an infinity or a zero quaternion, which "
            f"{kind} files cannot; leave them out with active=splat.gaussians.usable(gaussians)"
        )
    return at_most_degree(gaussians, kind, highest_degree)


def at_most_degree(gaussians: Rows, kind: str, highest_degree: int) -> Rows:
    """Cuts off higher coefficients than a format holds, with a warning.

    Args:
        gaussians: Rows to write.
        kind: Name of the format for messages.
        highest_degree: SH degree that the format holds.

    Returns:
        `gaussians`, at most of that degree.
    """
    if gaussians.sh_degree > highest_degree:
        warn(
            f"{kind} files hold SH degree {highest_degree}: the coefficients up to degree "
            f"{gaussians.sh_degree} are left out"
        )
        return dataclasses.replace(gaussians, sh=gaussians.sh[:, : (highest_degree + 1) ** 2])
    return gaussians


def sigmoid(logits: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """1 / (1 + exp(-logits)) in float64 without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))


def logit(opacity: Float[np.ndarray, "*shape"], margin: float) -> Float[np.ndarray, "*shape"]:
    """Inverse of `sigmoid` in float64, finite because the opacity is kept at least `margin` away from 0 and 1."""
    inside = np.clip(opacity.astype(np.float64), margin, 1.0 - margin)
    return np.log(inside) - np.log1p(-inside)


def linear_scales(log_scales: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """exp(log_scales) in float64, kept inside the range of float32."""
    limits = np.finfo(np.float32)
    return np.clip(np.exp(np.clip(log_scales.astype(np.float64), -100, 100)), limits.tiny, limits.max)


def logarithms(scales: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """log(scales) in float64 of scales from 0 up; a zero counts as float32's smallest normal number."""
    return np.log(np.maximum(scales.astype(np.float64), np.finfo(np.float32).tiny))


def unit_quaternions(quats: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Scales quaternions [N, 4] to length one in float64; zero quaternions stay zero."""
    quats = quats.astype(np.float64)
    # The largest component comes to 1 first: squares of tiny or huge ones would leave float64 otherwise.
    largest = np.abs(quats).max(axis=1, keepdims=True, initial=0.0)
    scaled = quats / np.where(largest > 0, largest, 1.0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / np.where(length > 0, length, 1.0)


def smallest_three(quats: Float[np.ndarray, "N 4"]) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N 3"]]:
    """Rotations without the largest component of their unit quaternion, which the others determine.

    Args:
        quats: [N, 4] of any length.

    Returns:
        Index [N] of the largest component, and the other three [N, 3] in their order, within sqrt(1/2) of 0.
    """
    quats = unit_quaternions(quats)
    largest = np.abs(quats).argmax(axis=1)
    # q and -q are one rotation: choose the sign that makes the omitted component positive.
    quats = np.where(quats[np.arange(len(quats)), largest][:, None] < 0, -quats, quats)
    return largest, quats[np.arange(4)[None] != largest[:, None]].reshape(-1, 3)


def from_smallest_three(largest: Int[np.ndarray, "N"], others: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 4"]:
    """Unit quaternions [N, 4] of what `smallest_three` gave; rounding may have made the others too long."""
    quats = np.zeros((len(others), 4))
    quats[np.arange(4)[None] != largest[:, None]] = others.ravel()
    quats[np.arange(len(others)), largest] = np.sqrt(np.maximum(1.0 - (others**2).sum(axis=1), 0.0))
    return unit_quaternions(quats)


def base_colors(sh: Float[np.ndarray, "N K 3"]) -> Float[np.ndarray, "N 3"]:
    """Colours [N, 3] in [0, 1] of the degree-0 coefficients of `sh` [N, K, 3]."""
    return np.clip(0.5 + SH_C0 * sh[:, 0].astype(np.float64), 0.0, 1.0)


def base_coefficients(colors: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 1 3"]:
    """Degree-0 coefficients [N, 1, 3] of `colors` [N, 3]."""
    return ((colors.astype(np.float64) - 0.5) / SH_C0)[:, None]


def to_bytes(values: Num[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Nearest uint8, clamped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def drop_zero_degrees(sh: Float[np.ndarray, "N K 3"]) -> Float[np.ndarray, "N _K 3"]:
    """Removes trailing degrees from `sh` [N, K, 3] whose coefficients are all zero."""
    with np.errstate(invalid="ignore"):  # signalling NaNs of broken files
        while sh.shape[1] > 1 and not sh[:, (math.isqrt(sh.shape[1]) - 1) ** 2 :].any():
            sh = sh[:, : (math.isqrt(sh.shape[1]) - 1) ** 2]
    return sh
