"""One word opens a set of turntables of any kind; anything else is one line."""

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from im3d_jax.data.toybox.turntable_set import ToyboxTurntables
from im3d_jax.data.turntable_folder import TurntableFolder
from im3d_jax.data.turntable_sets import open_turntables
from im3d_jax.data.turntable_tfds import TurntableTfds, build_turntables
from im3d_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """One turntable of 2 x 4² pixels, as `im3d render-dataset` writes it."""
    path = tmp_path / "rendered"
    (path / "objects").mkdir(parents=True)
    buffer = io.BytesIO()
    Image.fromarray(np.arange(128, dtype=np.uint8).reshape(8, 4, 4)).save(buffer, "PNG")
    (path / "objects" / "cup.png").write_bytes(buffer.getvalue())
    entry = {"id": "cup", "caption": "a cup", "source": "cup.glb", "elevation_deg": [5, 5], "azimuth_deg": [0, 180]}
    entry["sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (path / "index.jsonl").write_text(json.dumps(entry) + "\n")
    (path / "settings.json").write_text(json.dumps({"format": 1, "views": 2, "size": 4}))
    return path


def test_kinds(folder, tmp_path):
    rendered = open_turntables(str(folder))
    assert isinstance(rendered, TurntableFolder)
    build_turntables(str(folder), tmp_path / "tfds")
    built = open_turntables(str(tmp_path / "tfds"))
    assert isinstance(built, TurntableTfds) and built[0].caption == "a cup"
    np.testing.assert_array_equal(built[0].rgba, rendered[0].rgba)
    np.testing.assert_array_equal(built[0].azimuths, rendered[0].azimuths)


def test_toybox():
    whole, some = open_turntables("toybox"), open_turntables("toybox:5:8")
    assert isinstance(whole, ToyboxTurntables) and (len(whole), whole.size) == (1_000_000, 256)
    assert (len(some), some.size, some.frames) == (5, 8, 16) and open_turntables("toybox:7").size == 256
    assert open_turntables("toybox:2:8:14")[1].rgba.shape == (14, 8, 8, 4)
    assert some[4].key == "train-4"
    for index in (5, -1):
        with pytest.raises(IndexError):
            some[index]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("toybox:", "expected toybox"),
        ("toybox:0", "positive numbers"),
        ("toybox:-3", "positive numbers"),
        ("toybox:4:x", "positive numbers"),
        ("toybox:4:8:0", "positive numbers"),
        ("toybox:4:8:9:1", "expected toybox"),
        ("toybox:2000000", "1000000 objects, not 2000000"),
        ("toys", "no turntables at toys; expected a folder of im3d render-dataset"),
        ("", "no turntables at an empty path"),
    ],
)
def test_wrong_words(spec, words):
    with pytest.raises(InputError, match=words):
        open_turntables(spec)


def test_other_folders(tmp_path):
    with pytest.raises(InputError, match="holds no turntables; expected"):
        open_turntables(str(tmp_path))
    (tmp_path / "examples").mkdir()
    with pytest.raises(InputError, match="holds encoded turntables"):
        open_turntables(str(tmp_path))
