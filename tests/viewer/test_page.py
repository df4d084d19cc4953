"""The page as text: what it says, what it holds, and that nothing of it reaches out."""

import base64
import io
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from im3d_jax.viewer import About, PosedPictures, about_captures, about_file, about_request, build_page, page_frame
from im3d_jax.viewer.about import measures_of
from splat.io.files import on_host
from splat.io.frames import transform
from splat.io.spz import decode_spz
from tests.viewer.pages import asset, cameras, page, rendered


@pytest.fixture(scope="module")
def made():
    gaussians, orbit = asset(), cameras(side=48)
    return page(gaussians, orbit, rendered(gaussians, orbit)).decode()


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="asset">(.*?)</script>', text, re.DOTALL)[1])


def test_a_page_says_what_it_shows(made):
    assert "<h1>A ball with two arms</h1>" in made and "<dt>Seed</dt><dd>7</dd>" in made
    assert "<dt>Gaussians</dt><dd>400</dd>" in made and "8 views" in made
    assert "the first drawing" in made and "26.7 dB" in made and "28.2 dB" in made and "0.920" in made
    assert not re.search(r"\{\{\w+\}\}", made)


def test_nothing_of_a_page_is_elsewhere(made):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', made)[1]
    assert policy.startswith("default-src 'none'") and "http" not in policy
    markup = made.split("<script", 1)[0]
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]+"', markup)


def test_a_page_holds_its_asset_with_y_up(made):
    data = data_of(made)
    rows = decode_spz(base64.b64decode(data["spz"]))
    means = np.asarray(asset().means)
    np.testing.assert_allclose(rows.means, means[:, [0, 2, 1]] * [1, 1, -1], atol=2**-12)
    np.testing.assert_allclose(data["world"]["rotation"], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-9)
    assert [len(band) for band in data["world"]["bands"]] == [3, 5, 7]
    # Every camera looks at the home's target from its distance, upright.
    target = np.array(data["home"]["target"])
    for camera in data["cameras"]:
        matrix = np.array(camera["matrix"]).reshape(4, 4)
        offset = matrix[:3, 3] - target
        np.testing.assert_allclose(-matrix[:3, 2], -offset / np.linalg.norm(offset), atol=1e-4)
        assert matrix[1, 1] > 0.8 and np.linalg.norm(offset) == pytest.approx(data["home"]["distance"], rel=1e-4)
    assert [camera["label"] for camera in data["cameras"][:3]] == ["0°", "45°", "90°"]


def test_a_page_shows_the_view_that_refinement_changed_most(made):
    views = data_of(made)["views"]
    assert views["shown"] == 3 and len(views["given"]) == len(views["asset"]) == len(views["later"]) == 8
    picture = Image.open(io.BytesIO(base64.b64decode(views["given"][2].split(",")[1])))
    assert picture.format == "WEBP" and picture.size == (48, 48) and picture.mode == "RGBA"


def test_many_views_are_thinned_and_stand_in_order():
    gaussians, orbit = asset(50, 1), cameras(40, side=16)
    renders = np.ones((40, 16, 16, 4), np.float32)
    shuffled = np.random.default_rng(0).permutation(40)
    pictures = PosedPictures.of_views(orbit[shuffled], renders, renders, renders)
    assert pictures.refined is None, "nothing was refined"
    text = build_page(on_host(gaussians), about_captures(40, 1, generated=False), pictures=pictures).decode()
    labels = [float(camera["label"][:-1]) for camera in data_of(text)["cameras"]]
    assert "16 of 40 views" in text and "the pictures of the capture" in text and "Captured" in text
    assert len(labels) == 16 and labels[0] == 0 and labels == sorted(labels)


def test_text_cannot_leave_its_place():
    nasty = '</script><script>alert(1)</script>"><img src=x onerror=alert(2)> {{data}}'
    text = build_page(on_host(asset(20, 1)), About(nasty, nasty, [(nasty, nasty)])).decode()
    assert "<script>alert" not in text and "<img src=x" not in text
    assert text.count("</script>") == 2 and data_of(text)["file"].startswith("script-script-alert-1")


def test_equal_assets_give_equal_pages():
    one, other = (build_page(on_host(asset(20, 4)), About("a", "b")) for _ in range(2))
    assert one == other


def test_pages_of_degree_4_and_of_strays():
    gaussians = asset(50, 25)
    gaussians = gaussians.replace(means=gaussians.means.at[7].set(1e7))
    rows = decode_spz(base64.b64decode(data_of(build_page(on_host(gaussians), About("a", "b")).decode())["spz"]))
    assert len(rows) == 49 and rows.sh_degree == 3 and np.abs(rows.means).max() < 1
    with pytest.raises(ValueError, match="no gaussians"):
        build_page(on_host(gaussians, np.zeros(50, bool)), About("a", "b"))
    with pytest.raises(ValueError, match="1 of 50 gaussians"):
        build_page(on_host(gaussians.replace(means=gaussians.means.at[7].set(jnp.nan))), About("a", "b"))


@pytest.mark.parametrize("up", ["z", "y", "-y", np.array([0.3, -0.2, 0.9]), np.array([0.0, -1.0, 1e-9])])
def test_what_is_up_becomes_y(up):
    frame = page_frame(up)
    axis = {"z": [0, 0, 1], "y": [0, 1, 0], "-y": [0, -1, 0]}[up] if isinstance(up, str) else up / np.linalg.norm(up)
    np.testing.assert_allclose(frame.turn @ np.array(axis, float), [0, 1, 0], atol=1e-6)
    assert np.linalg.det(frame.turn) == pytest.approx(1)
    # The page's way back, with which it makes PLY files.
    rows = on_host(asset(5, 16))
    world, turned = frame.world_json(3), transform(rows, frame.turn)
    back = transform(turned, np.array(world["rotation"]))
    np.testing.assert_allclose(back.means, rows.means, atol=1e-6)
    sh = turned.sh.astype(np.float64)
    for band, matrix in enumerate(world["bands"], 1):
        place = slice(band * band, (band + 1) ** 2)
        np.testing.assert_allclose(np.einsum("ij,njc->nic", matrix, sh[:, place]), rows.sh[:, place], atol=1e-5)


def test_words():
    about = about_request({"prompt": "A Red Mug!", "seed": 3, "quality": "best", "rounds": 1, "image": None}, "tiny")
    assert about.file_name == "a-red-mug" and ("Refinement", "1 round") in about.facts
    assert about.title == "A Red Mug!"
    assert about_request({"prompt": None, "image": "x", "rounds": 0}, "tiny").title == "From a picture"
    assert about_captures(70, 0, generated=False).kicker == "Fitted to 70 pictures"
    assert about_file("a.b", ".ply") == About("a.b", "Gaussian splat PLY")
    assert about_file("lego.v2") == About("lego.v2", "Gaussian splat")
    assert measures_of({"seconds": 1}) == []
    same = {"psnr": 30.0, "ssim": 0.9}
    assert len(measures_of({"against_first_views": same, "against_targets": same})) == 2
    captures = measures_of({"views": same | {"lpips": 0.1}, "test": same | {"lpips": 0.2}})
    assert captures[0][1] == ["PSNR", "SSIM", "LPIPS"] and captures[2] == (
        "held-out pictures",
        ["30.0 dB", "0.900", "0.200"],
    )
