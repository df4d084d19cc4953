"""A request with its model: what decides the result, what is said about it, and what the model cannot draw."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.data.toybox import VOCABULARY
from im3d_jax.digests import json_hash
from im3d_jax.errors import ImageError, InputError, RunFolderError
from im3d_jax.generation.plan import PerceptualChoice, make_plan
from im3d_jax.generation.request import AssetRequest
from im3d_jax.images.files import encode_png
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.output.run_folder import RunFolder
from im3d_jax.pipelines import Pipeline, load
from im3d_jax.pipelines.bundle import QUALITIES, BundleModel
from im3d_jax.weights import load_bundle
from tests.fake_model import FIT, FakeModel, disc, two_levels


@pytest.fixture(scope="module")
def tiny():
    return load()


def settings_of(pipeline, request=None, **choices):
    return make_plan(request or AssetRequest("a mug"), pipeline, **choices).settings()


def test_what_a_quality_stands_for_is_among_the_settings(tiny):
    settings = settings_of(tiny)
    assert settings["what"] == "asset" and settings["request"]["quality"] == "standard"
    assert settings["views"]["refine"]["steps"] == QUALITIES["standard"].refine.steps
    assert settings["views"]["fit"]["steps"] == QUALITIES["standard"].fit.steps
    assert settings["pictures"]["steps"] == QUALITIES["standard"].picture.steps
    assert settings["model"] == settings["picture_model"] and len(settings["model"]["sha256"]) == 64
    views = settings_of(tiny, what="views")
    assert views["request"].keys() == settings["request"].keys() - {"rounds", "start"}
    assert not {"fit", "fit_side", "refresh"} & views["views"].keys(), "what only a fit depends on"


def test_a_picture_needs_no_picture_model():
    picture = np.ones((32, 32, 4), np.float32)
    picture[:8, ..., 3] = 0.0
    settings = settings_of(FakeModel().pipeline, AssetRequest(image=picture))
    assert "pictures" not in settings and "picture_model" not in settings
    assert len(settings["request"]["image"]) == 64


def test_other_weights_in_the_same_folder_are_other_settings(bundle, tmp_path):
    import shutil

    def identity():
        return BundleModel(load_bundle(folder)).identity(elevation_known=True)["sha256"]

    folder = shutil.copytree(bundle, tmp_path / "model")
    before = identity()
    assert identity() == before
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config + " ")
    assert identity() != before


def test_nothing_but_content_decides(tiny, bundle):
    """No path, no name of a folder, no memory preset."""
    both = BundleModel(load_bundle(bundle))
    text = str(settings_of(Pipeline(both, both)))
    assert bundle not in text and "memory" not in text
    fast = FakeModel()
    fast.memory = "16gb"
    plan = make_plan(AssetRequest("a mug"), fast.pipeline)
    assert plan.settings() == settings_of(FakeModel().pipeline) and plan.facts()["memory"] == "16gb"


def test_the_type_of_activations_decides(bundle):
    usual, half = (settings_of(load(bundle, dtype=dtype)) for dtype in (jnp.float32, jnp.bfloat16))
    assert "dtype" not in usual["model"] and half["model"]["dtype"] != "float32"
    assert json_hash(usual) != json_hash(half) == json_hash(settings_of(load(bundle, dtype=jnp.bfloat16)))


def test_the_picture_model_decides(bundle, tiny):
    alone, drawn = settings_of(load(bundle)), settings_of(load(bundle, image_model="tiny"))
    assert drawn["picture_model"] == tiny.pictures.picture_identity() != alone["picture_model"]
    assert drawn["model"] == alone["model"] and json_hash(drawn) != json_hash(alone)
    # A given picture leaves the picture model out.
    given = AssetRequest(image=disc(0, 5, 40))
    assert settings_of(load(bundle, image_model="tiny"), given) == settings_of(load(bundle), given)


def test_lpips_decides_by_its_content():
    chosen = PerceptualChoice(Perceptual(two_levels), "LPIPS (VGG16)", "ab" * 32)
    plan = make_plan(AssetRequest("a mug"), FakeModel().pipeline, lpips=chosen)
    assert plan.settings()["lpips_sha256"] == "ab" * 32 and plan.facts()["perceptual_features"] == "LPIPS (VGG16)"
    assert "lpips_sha256" not in settings_of(FakeModel().pipeline)
    nameless = dataclasses.replace(chosen, sha256=None)
    with pytest.raises(InputError, match=r"the features 'LPIPS \(VGG16\)' have no sha256.*leave out= away"):
        settings_of(FakeModel().pipeline, lpips=nameless)
    assert "lpips_sha256" not in settings_of(FakeModel().pipeline, lpips=nameless, what="views"), "nothing is fitted"


def test_a_folder_of_another_version_is_refused_by_the_setting_that_differs(tmp_path):
    class Newer(FakeModel):
        """The fit of another version."""

        def view_settings(self, quality):
            return dataclasses.replace(
                super().view_settings(quality), fit=dataclasses.replace(FIT, lr_means=(1.0, 0.1))
            )

    folder = RunFolder(tmp_path, settings_of(FakeModel().pipeline))
    folder.start()
    folder.stage("image", lambda files: files.write("input.png", b"made"))
    RunFolder(tmp_path, settings_of(FakeModel().pipeline))
    with pytest.raises(RunFolderError, match=r"\(views.fit.lr_means was \[0.005, 0.0001\], now \[1.0, 0.1\]\)"):
        RunFolder(tmp_path, settings_of(Newer().pipeline))


def remarks(pipeline, prompt):
    return make_plan(AssetRequest(prompt), pipeline, what="views").remarks()


def test_a_prompt_that_is_read_whole(tiny):
    for prompt in ("a red mug", " ".join(VOCABULARY[:23])):
        assert remarks(tiny, prompt) == []


def test_unknown_words_and_the_end_of_a_long_prompt(tiny):
    (line,) = remarks(tiny, "a Zebra mug")
    assert line == "words outside the model's vocabulary, ignored: Zebra; see im3d doctor --vocabulary"
    # 23 words fit; an unknown one takes no room.
    unknown, lost = remarks(tiny, "zebra mug " + "red " * 22 + "\nmug,  with white dots.")
    assert "zebra" in unknown
    assert lost == "the prompt is longer than the model reads; ignored end: mug, with white dots."


def test_a_very_long_prompt_is_quoted_in_part(tiny):
    (line,) = remarks(tiny, "mug " + "red " * 5000)
    assert line.endswith("red red ...") and len(line) < 300


def test_a_prompt_that_names_no_known_thing(tiny):
    for prompt in ("a pangolin", "a red pangolin", "the", "red with blue stripes", "!!!", "small " * 23 + "mug"):
        with pytest.raises(InputError, match="has no thing that tiny can draw.* write for instance"):
            make_plan(AssetRequest(prompt), tiny)
    with pytest.raises(InputError, match="it does not know penguine; nearest known words: penguin.*a red penguin"):
        make_plan(AssetRequest("a penguine"), tiny)
    for prompt in ("two mugs", "CUP", "a pangolin on a table", "a polka dotted tea pot"):
        make_plan(AssetRequest(prompt), tiny)
    # A picture says what to draw: the prompt costs nothing then.
    picture = np.ones((32, 32, 4), np.float32)
    picture[..., 3] = np.pad(np.ones((16, 16)), 8)
    (line,) = make_plan(AssetRequest("pangolin", picture), tiny).remarks()
    assert line.startswith("words outside the model's vocabulary, ignored: pangolin")


def test_who_reads_the_prompt_has_its_say():
    """The picture model where it draws, otherwise the view model."""

    class Painter(FakeModel):
        name, remark = "painter", "its eps is that of sgm"

        def prompt_remarks(self, prompt):
            return ["painter reads"]

    views = FakeModel()
    views.remark = "two networks in one folder"
    assert remarks(Pipeline(views, Painter()), "xyzzy") == [views.remark, Painter.remark, "painter reads"]
    picture = np.ones((32, 32, 4), np.float32)
    picture[..., 3] = np.pad(np.ones((16, 16)), 8)
    plan = make_plan(AssetRequest("xyzzy", picture), Pipeline(views, Painter()))
    assert plan.remarks() == [views.remark, "ignored: xyzzy"]
    facts = plan.facts()
    assert facts.pop("cut_out")["warnings"] == []
    assert facts == {"model": "fake", "perceptual_features": "two levels"}


def test_a_doubtful_cut_out_is_told_and_a_whole_frame_refused(tmp_path):
    picture = np.ones((32, 32, 4), np.float32)
    picture[:20, ..., 3] = 0.0
    plan = make_plan(AssetRequest(image=picture), FakeModel().pipeline)
    (warning,) = plan.facts()["cut_out"]["warnings"]
    assert "outline lie on the picture's border" in warning and plan.facts()["cut_out"]["share"] == 0.375
    assert plan.remarks() == [f"the picture: {warning}"]
    assert plan.remarks(tmp_path) == [f"the picture: {warning}; see {tmp_path / 'cut_out.png'}"]
    picture[1:20, ..., 3] = 1.0
    (tmp_path / "photo.png").write_bytes(encode_png(picture))
    with pytest.raises(ImageError, match="^photo.png: 97% of the picture would be the object, so it is"):
        make_plan(AssetRequest(image=tmp_path / "photo.png"), FakeModel().pipeline)


def test_what_a_model_cannot_draw():
    with pytest.raises(InputError, match="fake starts from a picture: give --image=FILE, or .* --image_model=DIR"):
        make_plan(AssetRequest("mug"), Pipeline(FakeModel()))
    with pytest.raises(InputError, match="orbit_direction=cw: fake draws ccw orbits only; remove the option"):
        make_plan(AssetRequest("mug", orbit_direction="cw"), FakeModel().pipeline)
    with pytest.raises(ImageError, match="entirely transparent"):
        make_plan(AssetRequest(image=np.zeros((32, 32, 4), np.float32)), FakeModel().pipeline)
