"""`AssetRequest`: one line for each bad value, and JSON that holds what decides a result."""

import json
import math
import shutil
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

import im3d_jax
from im3d_jax import AssetRequest, InputError
from im3d_jax.digests import json_hash
from tests.fake_model import FakeModel


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "neither a prompt nor an image is given"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": "mug \udcff"}, "no UTF-8 text"),
        ({"prompt": "a", "seed": -1}, "seed=-1: expected a whole number from 0 to 4294967295"),
        ({"prompt": "a", "seed": 2**32}, "seed=4294967296: expected"),
        ({"prompt": "a", "seed": 1.5}, "seed=1.5: expected a whole number"),
        ({"prompt": "a", "seed": True}, "seed=True: expected a whole number"),
        ({"prompt": "a", "quality": "ultra"}, "quality=ultra: expected one of draft, standard, best"),
        ({"prompt": "a", "rounds": 3}, "rounds=3: expected 0 to 2"),
        ({"prompt": "a", "rounds": -1}, "rounds=-1: expected 0 to 2"),
        ({"prompt": "a", "rounds": 0.5}, "rounds=0.5: expected 0 to 2"),
        ({"prompt": "a", "elevation_deg": 90}, "elevation_deg=90: expected degrees between -89 and 89"),
        ({"prompt": "a", "elevation_deg": math.nan}, "elevation_deg=nan: expected degrees"),
        ({"prompt": "a", "elevation_deg": "10"}, "elevation_deg=10: expected degrees"),
        ({"prompt": "a", "orbit_direction": "up"}, "orbit_direction=up: expected one of auto, ccw, cw"),
        ({"prompt": "a", "start": "cube"}, "start=cube: expected one of auto, hull, ball"),
        ({"prompt": 3}, "prompt=3: expected text"),
        ({"image": np.ones((8, 8))}, r"image of shape \[8, 8\]: expected \[height, width, 3 or 4\]"),
        ({"image": np.ones((8, 8, 4), np.uint8)}, "image of type uint8: expected floats in"),
        ({"image": np.ones((8, 8, 4)) * 255}, "image with values from 255 to 255: expected floats in"),
        ({"image": np.full((8, 8, 4), np.nan)}, "image with values from nan to nan: expected floats in"),
        ({"image": 3}, "image=3: expected a path or an array"),
        ({"image": ""}, "the path of the image is empty"),
        ({"prompt": np.ones((64, 64, 4))}, "expected text; give a picture as image="),
        ({"prompt": "a", "elevation_deg": True}, "elevation_deg=True: expected degrees"),
    ],
)
def test_bad_values_are_one_line(given, message):
    with pytest.raises(InputError, match=message) as raised:
        AssetRequest(**given)
    assert "\n" not in str(raised.value)


def test_good_values():
    request = AssetRequest("a mug", seed=2**32 - 1, quality="best", rounds=0, elevation_deg=-89)
    assert request.elevation == pytest.approx(math.radians(-89)) and AssetRequest("a").elevation is None
    assert request.read_image() is None


def test_fields_of_a_call_that_are_none_are_named():
    for request in ("mug", AssetRequest("mug"), None):
        with pytest.raises(InputError, match=r"^unknown field 'quallity'; did you mean 'quality'\?$"):
            im3d_jax.views(FakeModel().pipeline, request, quallity="draft")
    with pytest.raises(InputError, match="^unknown field 'x'; known are prompt, image, seed, quality"):
        im3d_jax.views(FakeModel().pipeline, "mug", x=1)
    with pytest.raises(InputError, match="the prompt is given twice"):
        im3d_jax.views(FakeModel().pipeline, "mug", prompt="mug")
    with pytest.raises(InputError, match="quality=x: expected one of"):
        im3d_jax.views(FakeModel().pipeline, AssetRequest("mug"), quality="x")


@pytest.fixture
def box(tmp_path):
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[5:15, 5:15] = 255
    Image.fromarray(pixels).save(tmp_path / "box.png")
    return tmp_path / "box.png"


def test_the_picture_counts_by_its_content(box, tmp_path):
    before = AssetRequest(image=box).to_json()
    assert len(before["image"]) == 64 and before == AssetRequest(image=str(box)).to_json()
    moved = shutil.copy(box, tmp_path / "elsewhere.png")
    assert AssetRequest(image=moved).to_json() == before
    Image.fromarray(np.full((20, 20, 4), 9, np.uint8)).save(box)
    assert AssetRequest(image=box).to_json()["image"] != before["image"]


def test_json_holds_no_paths_and_all_else(box):
    shown = AssetRequest("a mug", box, 3, "draft", 1, 10.0, "cw").to_json()
    assert str(box) not in json.dumps(shown) and "memory" not in shown
    assert shown | {"image": ""} == {
        "prompt": "a mug",
        "image": "",
        "seed": 3,
        "quality": "draft",
        "rounds": 1,
        "elevation_deg": 10.0,
        "orbit_direction": "cw",
        "start": "auto",
    }
    # Equal numbers of other types are one request.
    one, other = AssetRequest("a", seed=3, elevation_deg=10), AssetRequest("a", seed=np.int64(3), elevation_deg=10.0)
    assert json.dumps(one.to_json()) == json.dumps(other.to_json())
    one, other = AssetRequest("a", elevation_deg=0), AssetRequest("a", elevation_deg=-0.0)
    assert json.dumps(one.to_json()) == json.dumps(other.to_json())


def test_json_and_back(box):
    picture = np.full((8, 8, 4), 0.5, np.float32)
    requests = [AssetRequest("a mug", seed=3, rounds=0), AssetRequest("a mug", box, 3, "draft", 1, -7.5, "cw")]
    for request in (*requests, AssetRequest(image=picture)):
        read = json.loads(json.dumps(request.to_json()))
        again = AssetRequest.from_json(read, request.image)
        assert json_hash(again.to_json()) == json_hash(request.to_json()) == json_hash(read)
        assert all(getattr(again, field.name) is not None or read[field.name] is None for field in fields(again))
    assert AssetRequest.from_json({"prompt": "a"}).to_json() == AssetRequest("a").to_json()


def test_json_that_is_no_request(box):
    whole = AssetRequest("a mug", box).to_json()
    for read, image, message in (
        (whole | {"qualty": "draft"}, box, "unknown field 'qualty'; did you mean 'quality'"),
        (whole, None, "name a picture by its hash .*; give the picture as image="),
        (whole, np.zeros((8, 8, 4), np.float32), "image with the hash .*: expected"),
        (AssetRequest("a mug").to_json(), box, "have no hash of one; leave image= away"),
        (whole | {"seed": -1}, box, "seed=-1: expected"),
        ([], None, "expected a mapping"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            AssetRequest.from_json(read, image)
        assert "\n" not in str(raised.value)


def test_arrays_count_by_values_and_shape():
    picture = np.random.default_rng(0).uniform(size=(16, 20, 4)).astype(np.float32)
    digest = AssetRequest(image=picture).to_json()["image"]
    assert AssetRequest(image=picture.copy()).to_json()["image"] == digest
    assert AssetRequest(image=np.asfortranarray(picture)).to_json()["image"] == digest
    assert AssetRequest(image=picture.reshape(20, 16, 4)).to_json()["image"] != digest
    assert AssetRequest(image=picture * 0.5).to_json()["image"] != digest
    # Doubles are hashed and used as floats.
    fine = picture.astype(np.float64) + 1e-12
    request = AssetRequest(image=fine)
    assert request.to_json()["image"] == digest
    np.testing.assert_array_equal(request.read_image(), picture)
