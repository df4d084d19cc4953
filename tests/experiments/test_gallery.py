"""The gallery's pictures: views beside the asset, of held-out prompts; a second call makes nothing anew."""

import numpy as np
from PIL import Image

from experiments import gallery
from im3d_jax.data.toybox import Toybox
from im3d_jax.progress import ProgressCalls
from tests.fake_model import FakeModel


def test_one_picture(tmp_path):
    model, folders = FakeModel(), (tmp_path / "runs", tmp_path / "pictures")
    caption = Toybox("test").caption(2)
    row = gallery.make_picture(model.pipeline, 2, "draft", *folders, ProgressCalls(None))
    assert row == f"| {caption} (seed 2) | ![{caption}]({tmp_path / 'pictures/02.webp'}) |"
    sheets = [Image.open(tmp_path / "runs/02" / name).convert("RGB") for name in ("sheet.png", "asset_sheet.png")]
    made = Image.open(tmp_path / "pictures/02.webp").convert("RGB")
    assert made.size == (sheets[0].width + sheets[1].width + gallery.GAP, sheets[0].height)
    left = np.asarray(made)[:, : sheets[0].width].astype(float)
    assert np.abs(left - np.asarray(sheets[0])).mean() < 5  # WebP loses a little
    calls = list(model.calls)
    assert gallery.make_picture(model.pipeline, 2, "draft", *folders, ProgressCalls(None)) == row
    assert model.calls == calls and "refine 2" in calls


def test_missing_folders_are_one_line(capsys):
    assert gallery.PROGRAM(["--out=x"]) == 2
    assert capsys.readouterr().err == "gallery: --pictures is missing; give for instance --pictures=docs/gallery\n"
