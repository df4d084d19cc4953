"""Cases of small files that declare much, and that many frames name."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from im3d_jax.data.captures import load_capture
from tests.data.posed import frames_of, write_json
from tests.robustness.case import Case


def _large(side: int, mode: str, frames: int, downscale: int, kind: str = "PNG") -> Callable[[pathlib.Path], None]:
    """One picture of a colour, as many frames as are given, and the mean of what is read."""

    def act(folder: pathlib.Path) -> None:
        white = {"1": 1, "L": 255, "P": 1, "RGB": (255, 255, 255)}[mode]
        Image.new(mode, (side, side), white).save(folder / "a.img", kind)
        write_json(folder, {"camera_angle_x": 0.7, "frames": frames_of(["a.img"] * frames)})
        capture = load_capture(folder, downscale)
        assert capture.images.shape == (frames, side // downscale, side // downscale, 4)
        np.testing.assert_allclose(capture.images[:, ::50, ::50], 1.0 if mode != "P" else capture.images[0, 0, 0])

    return act


def cases() -> Iterator[Case]:
    """All of this file."""
    fits = r"transforms.json: .*: at most \d+ of the pictures|--downscale=\d+ fits"
    for frames in (1, 2, 8, 40, 500):
        yield Case(8, f"a PNG of 49 MP in {frames} frames", _large(7000, "1", frames, 1), fits)
    for mode, side, frames in (("L", 7000, 3), ("P", 6000, 5), ("1", 3000, 200)):
        yield Case(8, f"a PNG of {mode}, {side}x{side}, in {frames} frames", _large(side, mode, frames, 1), fits)
    yield Case(8, "a PNG of 49 MP in 8 frames, downscale 10", _large(7000, "1", 8, 10))
    yield Case(8, "a PNG of 144 MP, downscale 12", _large(12000, "1", 1, 12))
    yield Case(8, "a PNG of 4 MP in 2 frames", _large(2000, "1", 2, 1))
    yield Case(8, "a TIFF of 49 MP in 8 frames", _large(7000, "1", 8, 1, "TIFF"), fits)
