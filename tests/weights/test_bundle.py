"""Model folders: round trip in bfloat16, damage, and the one that ships."""

import dataclasses
import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest

from im3d_jax.data.toybox import ALIASES, VOCABULARY
from im3d_jax.weights import (
    BUNDLED,
    BundleConfig,
    WeightsError,
    WordTokenizer,
    build_tokenizer,
    load_bundle,
    parameter_shapes,
    save_bundle,
)
from tests import tiny


BUDGETS = {"unet": 11e6, "autoencoder": 2.5e6, "text_encoder": 1e6, "elevation": 0.2e6}
# With layers that the smallest model leaves out.
SMALL = dataclasses.replace(
    tiny.BUNDLE,
    log_snr_shift=-0.5,
    unet=dataclasses.replace(tiny.UNET, layers_per_block=1, first_frame_attention=(False, True)),
)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), parameter_shapes(SMALL))


@pytest.fixture(scope="module")
def saved(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_bundle(folder, SMALL, WordTokenizer(build_tokenizer(["red", "mug"]), 6), params)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def refused(folder) -> str:
    with pytest.raises(WeightsError) as error:
        load_bundle(str(folder))
    assert "\n" not in str(error.value) and len(str(error.value)) < 900
    return str(error.value)


def edit(folder, **changes):
    data = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        place = data
        *path, last = name.split("__")
        for part in path:
            place = place[part]
        place[last] = value
    (folder / "config.json").write_text(json.dumps(data))


def test_round_trip(saved, params):
    bundle = load_bundle(str(saved))
    assert bundle.config == SMALL and bundle.config.process.shift == -0.5
    assert bundle.tokenizer.words() == ["mug", "red"] and bundle.tokenizer.length == 6
    assert jax.tree.structure(bundle.params) == jax.tree.structure(params)

    def check(found, wanted):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted.astype(ml_dtypes.bfloat16).astype(np.float32))

    jax.tree.map(check, bundle.params, params)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "unet.safetensors"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    assert name in refused(folder)


def test_numbers_that_are_none(folder):
    """Bytes damaged inside a file of the right length."""
    path = folder / "unet.safetensors"
    path.write_bytes(path.read_bytes()[:-64] + b"\xff" * 64)
    assert "unet.safetensors" in (said := refused(folder)) and "NaN" in said


def test_no_folder(tmp_path):
    assert "no such folder" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00{", b"", b"{", b"[1, 2]", b"null", b"[" * 100_000, b'"' + b"x" * 100_000 + b'"'],
    ids=["not utf-8", "empty", "cut", "list", "null", "deep", "long"],
)
def test_odd_text_files(folder, name, content):
    (folder / name).write_bytes(content)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"colour": 1}, "must have the fields"),
        ({"unet__chanels": [8, 16]}, "unet of config.json must have the fields"),
        ({"unet": 3}, "unet of config.json must have the fields"),
        ({"image_size": "32"}, "image_size of config.json must be a int"),
        ({"image_size": True}, "image_size"),
        ({"unet__channels": 8}, "unet.channels of config.json must be a list"),
        ({"unet__channels": [8, "16"]}, "unet.channels"),
        ({"unet__groups": 0}, "no network has the sizes"),
        ({"unet__attention": [True]}, "no network has the sizes"),
        ({"text__vocabulary": 4}, "more words than text.vocabulary=4"),
        ({"text__width": 32}, "text_encoder.safetensors: tensor"),
        ({"unet__layers_per_block": 2}, "unet.safetensors: the weights do not fit the network"),
    ],
)
def test_configs_that_fit_nothing(folder, changes, message):
    edit(folder, **changes)
    assert message in refused(folder)


def test_an_integer_may_stand_for_a_float(folder):
    edit(folder, log_snr_shift=1)
    shift = load_bundle(str(folder)).config.log_snr_shift
    assert shift == 1.0 and isinstance(shift, float)


def test_missing_field(folder):
    data = json.loads((folder / "config.json").read_text())
    del data["unet"]["frames"]
    (folder / "config.json").write_text(json.dumps(data))
    assert "unet of config.json must have the fields" in refused(folder)


def counts(config):
    shapes = parameter_shapes(config)
    return {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in shapes.items()}


def test_default_sizes_keep_the_budgets():
    found = counts(BundleConfig())
    assert found.keys() == BUDGETS.keys()
    for part, limit in BUDGETS.items():
        assert 0.1 * limit < found[part] <= limit, (part, found[part])


def test_the_bundled_model():
    """Loads whole and finite, knows Toybox's words, is as small as promised and readable by everybody."""
    bundle = load_bundle("tiny")
    assert bundle.config.image_size == 128 and bundle.config.unet.frames == 16
    assert 0.3 < bundle.config.target_fraction < 1
    for part, count in counts(bundle.config).items():
        assert count <= BUDGETS[part], (part, count)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bundle.params))
    # As a new training would write it.
    assert (BUNDLED / "tokenizer.json").read_text() == build_tokenizer(VOCABULARY, ALIASES) + "\n"
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 30e6
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in BUNDLED.iterdir())
    assert dataclasses.asdict(bundle.config).keys() == json.loads((BUNDLED / "config.json").read_text()).keys()
