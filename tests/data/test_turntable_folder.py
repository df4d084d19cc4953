"""Folders of turntables: what they give, and one line for each damage; Toybox behind the same interface."""

import hashlib
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from im3d_jax.data.toybox import Toybox
from im3d_jax.data.toybox.turntable_set import ToyboxTurntables
from im3d_jax.data.turntable import Turntable, TurntableSet
from im3d_jax.data.turntable_folder import TurntableError, TurntableFolder, read_index
from im3d_jax.data.turntables import render_orbit


VIEWS, SIZE = 4, 16


@pytest.fixture
def folder(tmp_path):
    """Three turntables: (path, their pixels, write_index)."""
    (tmp_path / "objects").mkdir()
    (tmp_path / "settings.json").write_text(json.dumps({"format": 1, "views": VIEWS, "size": SIZE}))
    pixels = np.random.default_rng(0).integers(0, 256, (3, VIEWS, SIZE, SIZE, 4), np.uint8)
    entries = []
    for i, views in enumerate(pixels):
        buffer = io.BytesIO()
        Image.fromarray(views.reshape(-1, SIZE, 4)).save(buffer, "PNG")
        (tmp_path / "objects" / f"thing-{i}.png").write_bytes(buffer.getvalue())
        entries.append(
            {
                "id": f"thing-{i}", "caption": f"thing {i}", "source": f"{i}.glb", "licence": "CC0",
                "elevation_deg": [15.0 * i] * VIEWS, "azimuth_deg": [90.0 * k for k in range(VIEWS)],
                "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            }
        )  # fmt: skip

    def write_index(entries=entries, tail=""):
        (tmp_path / "index.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)
        return entries

    write_index()
    return tmp_path, pixels, write_index


def test_items(folder):
    path, pixels, _ = folder
    found: TurntableSet = TurntableFolder(path)
    assert (len(found), found.frames, found.size) == (3, VIEWS, SIZE)
    item = found[2]
    assert isinstance(item, Turntable) and (item.caption, item.key) == ("thing 2", "thing-2")
    np.testing.assert_array_equal(item.rgba, pixels[2])
    np.testing.assert_allclose(item.elevations, np.radians([30.0] * VIEWS))
    np.testing.assert_allclose(item.azimuths, np.radians([0, 90, 180, 270]))
    assert item.elevations.dtype == item.azimuths.dtype == np.float32 and item.rgba.dtype == np.uint8
    for index in (3, -1):
        with pytest.raises(IndexError):
            found[index]


def test_damaged_pictures_name_themselves(folder):
    path, _, _ = folder
    picture = path / "objects" / "thing-1.png"
    whole = picture.read_bytes()
    found, trusting = TurntableFolder(path), TurntableFolder(path, verify=False)
    picture.write_bytes(whole[:-9] + b"x" + whole[-8:])
    with pytest.raises(TurntableError, match="thing-1.png has changed or is damaged"):
        found[1]
    picture.write_bytes(whole[:200])
    with pytest.raises(TurntableError, match="thing-1.png is damaged"):
        trusting[1]
    Image.new("RGB", (SIZE, SIZE * VIEWS)).save(picture)
    with pytest.raises(TurntableError, match="thing-1.png is 16x64 RGB, expected 16x64 RGBA"):
        trusting[1]
    Image.new("RGBA", (SIZE, SIZE)).save(picture)
    with pytest.raises(TurntableError, match="thing-1.png is 16x16 RGBA"):
        trusting[1]
    picture.unlink()
    with pytest.raises(TurntableError, match="thing-1.png cannot be read"):
        found[1]
    assert found[0].caption == "thing 0", "the others stay"


def test_an_unfinished_last_line_is_left_out(folder):
    path, _, write_index = folder
    entries = write_index(tail='{"id": "thing-9", "capt')
    assert [entry["id"] for entry in read_index(path / "index.jsonl")] == [entry["id"] for entry in entries]
    assert len(TurntableFolder(path)) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "../thing-0"}, "line 2 is damaged"),
        ({"id": ".hidden"}, "line 2 is damaged"),
        ({"id": "thing-0"}, "line 2: thing-0 comes twice"),
        ({"caption": 3}, "line 2 is damaged"),
        ({"elevation_deg": 3}, "line 2 is damaged"),
    ],
)
def test_damaged_index(folder, change, words):
    path, _, write_index = folder
    entries = write_index()
    write_index([entries[0], {**entries[1], **change}, entries[2]])
    with pytest.raises(TurntableError, match=words):
        TurntableFolder(path)


def test_wrong_number_of_angles(folder):
    path, _, write_index = folder
    entries = write_index()
    write_index([{**entries[0], "azimuth_deg": [0.0]}])
    with pytest.raises(TurntableError, match="thing-0 has not 4 angles"):
        TurntableFolder(path)[0]


def test_wrong_folders(folder, tmp_path):
    path, _, write_index = folder
    write_index([])
    with pytest.raises(TurntableError, match="holds no turntables"):
        TurntableFolder(path)
    for content, words in (
        ("{", "damaged"),
        ('{"format": 2}', "format 2"),
        ('{"format": 1, "views": 0, "size": 4}', "damaged"),
    ):
        (path / "settings.json").write_text(content)
        with pytest.raises(TurntableError, match=words):
            TurntableFolder(path)
    with pytest.raises(TurntableError, match="no folder"):
        TurntableFolder(path / "none")
    with pytest.raises(TurntableError, match="settings.json"):
        TurntableFolder(path / "objects")


def test_toybox_has_the_same_interface():
    toys: TurntableSet = ToyboxTurntables("test", size=24, frames=16)
    assert (len(toys), toys.frames, toys.size) == (10_000, 16, 24)
    item = toys[7]
    caption, toy = Toybox("test").item(7)
    assert (item.caption, item.key) == (caption, "test-7")
    assert item.rgba.shape == (16, 24, 24, 4) and item.rgba.dtype == np.uint8
    wanted = np.asarray(jax.jit(lambda toy: render_orbit(toy, 24))(toy))
    np.testing.assert_allclose(item.rgba / 255.0, wanted, atol=0.5 / 255 + 1e-5)
    np.testing.assert_allclose(item.elevations, np.full(16, toy.elevation), rtol=1e-6)
    np.testing.assert_allclose(item.azimuths, np.arange(16) * np.pi / 8, rtol=1e-6)
    with pytest.raises(IndexError):
        toys[10_000]
