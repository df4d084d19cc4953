"""The elevation head: its regression, its file, and what `im3d views` makes of it."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
from absl import flags

from experiments import train_clip_elevation as program
from im3d_jax.cli import common
from im3d_jax.errors import InputError
from im3d_jax.cli.main import main
from im3d_jax.foreign import elevation
from im3d_jax.foreign.layouts import fingerprint, head_file
from im3d_jax.foreign.sources import open_source
from im3d_jax.models.clip import CLIPVisionConfig
from im3d_jax.weights.encoders import encoder_network, encoder_shapes
from im3d_jax.errors import WeightsError
from im3d_jax.weights.trees import save_safetensors
from tests.tiny import draw_parameters


HEAD = elevation.Head(np.float32([1.0, -2.0, 0.5]), 0.25, "ab" * 32, -0.2, 0.9, 0.03)


def test_the_ridge_has_the_least_error_left_out():
    rng = np.random.default_rng(0)
    features, noise = rng.normal(size=(24, 6)) * [5, 1, 1, 0.3, 0.1, 0.01], rng.normal(size=24)
    values = features @ [0.2, -1.0, 0.5, 2.0, 0.0, 0.0] + 0.7 + 0.6 * noise

    def ridge(rows, penalty):
        centre, level = features[rows].mean(0), values[rows].mean()
        x = features[rows] - centre
        weight = np.linalg.solve(x.T @ x + penalty * np.eye(6), x.T @ (values[rows] - level))
        return weight, level - centre @ weight

    def left_out(penalty):
        """By 24 fits; the penalty of all samples' fit, as the closed form has it."""
        errors = []
        for out in range(24):
            weight, bias = ridge(np.arange(24) != out, penalty)
            errors.append(values[out] - features[out] @ weight - bias)
        return np.mean(np.square(errors))

    penalties = np.linalg.norm(features - features.mean(0), 2) ** 2 * np.logspace(-9, 1, 41)
    expected = ridge(np.arange(24), min(penalties, key=left_out))
    weight, bias = elevation.fit_ridge(features, values)
    np.testing.assert_allclose(weight, expected[0], rtol=1e-4, atol=1e-6)
    assert bias == pytest.approx(expected[1], abs=1e-5)


@pytest.fixture
def few_objects(monkeypatch):
    """Two objects again and again: a random encoder does not know what all objects have in common."""
    real = program.build_objects
    monkeypatch.setattr(
        program, "build_objects", lambda split, indices, *rest: real("test", [1 + i % 2 for i in indices], *rest)
    )


def test_features_of_a_random_encoder_tell_the_elevation(few_objects):
    config = CLIPVisionConfig(width=64, layers=1, heads=4, hidden=128, projection=96, image_size=32, patch=4)
    encoder, params = encoder_network(config), draw_parameters(encoder_shapes(config))
    options = {"side": 32, "seed": 0, "report": lambda *progress: None}
    features, known = program.measure_objects(encoder, params, "train", 90, **options)
    unseen, truth = program.measure_objects(encoder, params, "test", 24, **options)
    assert features.shape == (90, 96) and math.degrees(np.ptp(known)) > 50
    head = dataclasses.replace(HEAD, lowest=-1.0, highest=1.0)
    head = dataclasses.replace(head, **dict(zip(("weight", "bias"), elevation.fit_ridge(features, known), strict=True)))
    error, constant = (np.degrees(np.abs(guess - truth).mean()) for guess in (head(unseen), np.median(known)))
    print(f"random encoder: {error:.2f} degrees, constant {constant:.2f}")
    assert error < 0.5 * constant


def test_four_frames_whatever_the_start_and_the_direction():
    config = CLIPVisionConfig(width=16, layers=1, heads=2, hidden=32, projection=6, image_size=8, patch=4)
    encoder, params = encoder_network(config), draw_parameters(encoder_shapes(config))
    views = np.random.default_rng(0).uniform(size=(8, 32, 32, 4)).astype(np.float32)
    pooled = elevation.pooled_features(encoder, params, views)
    np.testing.assert_allclose(elevation.pooled_features(encoder, params, views[::2]), pooled, atol=1e-6)
    other = np.roll(views[::-1], 3, axis=0)  # 2 1 0 7 6 5 4 3
    np.testing.assert_allclose(elevation.pooled_features(encoder, params, other), pooled, atol=1e-6)
    assert np.abs(elevation.pooled_features(encoder, params, views[1::2]) - pooled).max() > 1e-3


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "head.safetensors"
    elevation.save_head(path, HEAD)
    again = elevation.load_head(path, HEAD.encoder)
    np.testing.assert_array_equal(again.weight, HEAD.weight)
    assert dataclasses.replace(again, weight=0) == dataclasses.replace(HEAD, weight=0)
    assert again(np.eye(3)) == pytest.approx([0.9, -0.2, 0.75])
    assert HEAD.reach == elevation.REACH and dataclasses.replace(HEAD, error=0.1).reach == pytest.approx(0.4)


def test_heads_that_are_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    elevation.save_head(path, HEAD)
    with pytest.raises(WeightsError, match="another image encoder .abababababab. than the model's .cdcdcdcdcdcd"):
        elevation.load_head(path, "cd" * 32)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        elevation.load_head(path, HEAD.encoder)
    fields = {"kind": elevation.KIND, "encoder": HEAD.encoder, "bias": "0", "lowest": "0", "highest": "1"}
    for tensors, more, message in (
        ({"weight": HEAD.weight}, {"kind": "other"}, "is no elevation head"),
        ({"bias": HEAD.weight}, {"error": "0"}, "is no elevation head"),
        ({"weight": HEAD.weight}, {}, "lacks a number"),
        ({"weight": HEAD.weight}, {"error": "x"}, "lacks a number"),
        ({"weight": HEAD.weight}, {"error": "nan"}, "finite"),
        ({"weight": HEAD.weight * np.nan}, {"error": "0"}, "finite"),
        ({"weight": HEAD.weight[None]}, {"error": "0"}, "finite"),
    ):
        save_safetensors(path, tensors, fields | more)
        with pytest.raises(WeightsError, match=message) as raised:
            elevation.load_head(path, HEAD.encoder)
        assert "\n" not in str(raised.value) and "fit it again" in str(raised.value)


def fit(*arguments):
    values = flags.FlagValues()
    program.define_flags(values)
    values(["train_clip_elevation", *arguments])
    program.run(values)


@pytest.mark.usefixtures("small", "few_objects")
def test_from_the_program_to_the_search(checkpoints, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "start_jax", lambda: None)
    model = tmp_path / "sv3d" / "sv3d_u.safetensors"
    model.parent.mkdir()
    shutil.copy(checkpoints["sv3d_u"], model)
    before, sizes = fingerprint(model.parent), ("--objects=32", "--held_out=16", "--side=32")
    fit(f"--model={model}", *sizes)
    shown = capsys.readouterr()
    assert shown.out.startswith("mean absolute error on 16 held-out objects: ") and str(head_file(model)) in shown.err
    assert head_file(model) == head_file(model.parent) == model.parent / "elevation_head/model.safetensors"
    first = head_file(model).read_bytes()
    # The two layouts of one encoder count as one; views do not depend on the head.
    own, other = (open_source(str(each)).encoder_fingerprint() for each in (model, checkpoints["folder"]))
    assert own == other == elevation.load_head(head_file(model), own).encoder and fingerprint(model.parent) == before

    def views(model, name):
        flags = [f"--model={model}", f"--image={picture}", "--quality=draft", "--orbit_direction=cw"]
        code = main(["views", *flags, f"--out={tmp_path / name}"])
        run = tmp_path / name / "run.json"
        return code, json.loads(run.read_text()) if run.is_file() else None, capsys.readouterr().err

    # A folder with one file of weights is a model too, its head no second one.
    code, run, said = views(model.parent, "with")
    assert code == 0 and run["orbit"]["start"] == "CLIP features"
    assert len(run["settings"]["elevation_head_sha256"]) == 64
    line = next(line for line in said.splitlines() if line.startswith("the orbit turns"))
    start, reach = run["orbit"]["start_deg"], run["orbit"]["reach_deg"]
    assert f"fitted from {start:.1f}, estimated from CLIP features, within {reach:.1f} of it" in line
    assert -10 <= start <= 50 and abs(start - 10) > 0.01 and abs(run["orbit"]["elevation_deg"] - start) <= reach + 1e-3

    shutil.copy(checkpoints["sv3d_p"], tmp_path / "sv3d" / "sv3d_p.safetensors")
    code, run, said = views(tmp_path / "sv3d" / "sv3d_p.safetensors", "other")
    assert code == 2 and run is None and said.count("\n") == 1 and "another image encoder" in said
    head_file(model).write_bytes(first[:-3])
    code, run, said = views(model, "damaged")
    assert code == 2 and run is None and said.count("\n") == 1 and "not a whole safetensors file" in said
    assert main(["doctor", f"--model={model}"]) == 2 and "not a whole safetensors file" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_what_the_program_refuses(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "start_jax", lambda: None)
    for arguments, message in (
        ([], "--model is missing"),
        ([f"--model={checkpoints['sd']}"], "has no image encoder"),
        ([f"--model={tmp_path / 'none'}"], "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            fit(*arguments)
    noise = lambda encoder, params, split, count, **rest: (  # noqa: E731
        np.random.default_rng(count).normal(size=(count, 4)),
        np.random.default_rng(count + 1).uniform(-0.2, 0.8, count),
    )
    monkeypatch.setattr(program, "measure_objects", noise)
    with pytest.raises(InputError, match="say nothing about the elevation"):
        fit(f"--model={checkpoints['sv3d_u']}", f"--out={tmp_path / 'head'}", "--objects=8", "--held_out=400")
    assert not (tmp_path / "head").exists()
