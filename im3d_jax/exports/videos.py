"""Turntables as MP4, WebP and GIF files."""

from __future__ import annotations

import dataclasses
import io
import re

import numpy as np
from PIL import Image

from im3d_jax.errors import InputError
from im3d_jax.exports.orbits import PATHS, orbit_of
from im3d_jax.exports.source import Source
from im3d_jax.images.alpha import composite
from im3d_jax.images.files import to_bytes
from im3d_jax.output.renders import render_views
from im3d_jax.output.videos import encode_mp4
from splat import Cameras
from splat.io.files import on_device


_COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "gray": (128, 128, 128)}
_WEBP_QUALITY = 80
_AT_ONCE = 16  # frames
MOST_SIDE = 4096


@dataclasses.dataclass(frozen=True)
class VideoSettings:
    """How a turntable looks.

    Attributes:
        width: Of the pictures in pixels, even.
        height: Of the pictures in pixels, even.
        frames: Of one round.
        frames_per_second: Speed of playing.
        background: [3] colour in [0, 1]; None for transparency.
        elevation_deg: Of the cameras; the views' own by default.
        path: One of `PATHS`.
    """

    width: int = 512
    height: int = 512
    frames: int = 96
    frames_per_second: int = 24
    background: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
    elevation_deg: float | None = None
    path: str = "turn"


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "512" or "640x360".

    Raises:
        InputError: Other text, odd numbers, or more than 4,096 pixels.
    """
    match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text.strip())
    width, height = (0, 0) if match is None else (int(match[1]), int(match[2] or match[1]))
    if not all(16 <= side <= MOST_SIDE and side % 2 == 0 for side in (width, height)):
        raise InputError(f"--size={text}: expected even numbers from 16 to {MOST_SIDE}, as 512 or 640x360")
    return width, height


def parse_background(text: str) -> tuple[float, float, float] | None:
    """A colour in [0, 1] of "white", "black", "grey" or "#rrggbb"; None of "transparent".

    Raises:
        InputError: Other text.
    """
    name = text.strip().lower()
    if name == "transparent":
        return None
    match = re.fullmatch(r"#?([0-9a-f]{6})", name)
    if match is None and name not in _COLORS:
        raise InputError(f"--background={text}: expected white, black, grey, transparent or a colour such as #202428")
    red, green, blue = _COLORS[name] if match is None else bytes.fromhex(match[1])
    return red / 255, green / 255, blue / 255


def encode_video(source: Source, kind: str, settings: VideoSettings) -> bytes:
    """Renders and encodes a turntable.

    Args:
        source: The gaussians.
        kind: "mp4", "webp" or "gif".
        settings: How it looks.

    Raises:
        InputError: A transparent MP4 or an unknown path.
    """
    if settings.background is None and kind == "mp4":
        raise InputError("--background=transparent: MP4 has no transparency; give a colour, or --to=webp")
    if settings.path not in PATHS:
        raise InputError(f"--path={settings.path}: expected {', '.join(PATHS)}")
    cameras = orbit_of(source).cameras(
        settings.frames, settings.width, settings.height, path=settings.path, elevation_deg=settings.elevation_deg
    )
    frames = _frames(source, cameras, settings.background)
    if kind == "mp4":
        return encode_mp4(frames, settings.frames_per_second)
    return _animation(frames, kind, settings)


def _frames(source: Source, cameras: Cameras, background: tuple[float, float, float] | None) -> np.ndarray:
    """Bytes [T, H, W, 3], or [T, H, W, 4] without a background; floats of all frames would fill the memory."""
    gaussians = on_device(source.rows)
    frames = np.empty((len(cameras), cameras.height, cameras.width, 4 if background is None else 3), np.uint8)
    for start in range(0, len(cameras), _AT_ONCE):
        images = render_views(gaussians, cameras[start : start + _AT_ONCE])
        if background is not None:
            images = composite(images, np.asarray(background, np.float32)[None, None, None])
        frames[start : start + _AT_ONCE] = to_bytes(images)
    return frames


def _animation(frames: np.ndarray, kind: str, settings: VideoSettings) -> bytes:
    if kind == "gif" and settings.background is None:
        # GIF has pixels that are there or not.
        frames = np.concatenate([frames[..., :3], np.where(frames[..., 3:] > 127, 255, 0).astype(np.uint8)], axis=-1)
    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    duration = round(1000 / settings.frames_per_second)
    if kind == "webp":
        pictures[0].save(
            buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=duration, loop=0, method=4,
            quality=_WEBP_QUALITY,
        )  # fmt: skip
        return buffer.getvalue()
    # GIF counts hundredths of a second.
    duration = 10 * max(2, round(100 / settings.frames_per_second))
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0, disposal=2, optimize=False
    )
    return buffer.getvalue()
