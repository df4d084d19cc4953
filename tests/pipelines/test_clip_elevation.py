"""The elevation head: its regression, its file, and what `im3d views` makes of it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from im3d_jax.cli.main import main
from im3d_jax.errors import WeightsError
from im3d_jax.models.clip import CLIPVisionConfig
from im3d_jax.pipelines import clip_elevation as elevation
from im3d_jax.pipelines.sources import open_source
from im3d_jax.weights.encoders import encoder_network, encoder_shapes
from im3d_jax.weights.identify import checkpoint_hash, head_file
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
        ({"weight": HEAD.weight}, {"kind": "other"}, "is not an elevation head"),
        ({"bias": HEAD.weight}, {"error": "0"}, "is not an elevation head"),
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


@pytest.mark.usefixtures("small")
def test_from_the_head_to_the_search(checkpoints, picture, tmp_path, capsys):
    model = tmp_path / "sv3d" / "sv3d_u.safetensors"
    model.parent.mkdir()
    shutil.copy(checkpoints["sv3d_u"], model)
    before = checkpoint_hash(model.parent)
    assert head_file(model) == head_file(model.parent) == model.parent / "elevation_head/model.safetensors"
    # The two layouts of one encoder count as one; views do not depend on the head.
    own, other = (open_source(each).encoder_fingerprint() for each in (model, checkpoints["folder"]))
    assert own == other
    weight = np.random.default_rng(0).normal(0, 0.01, 6).astype(np.float32)
    elevation.save_head(head_file(model), elevation.Head(weight, 0.35, own, -0.2, 0.9, 0.03))
    assert checkpoint_hash(model.parent) == before

    def views(model, name, *more):
        flags = [f"--model={model}", f"--image={picture}", "--quality=draft", "--orbit_direction=cw", *more]
        code = main(["views", *flags, f"--out={tmp_path / name}"])
        run = tmp_path / name / "run.json"
        return code, json.loads(run.read_text()) if run.is_file() else None, capsys.readouterr().err

    # A folder with one file of weights is a model too, its head no second one.
    code, run, said = views(model.parent, "with")
    assert code == 0 and run["orbit"]["start"] == "CLIP features"
    assert len(run["settings"]["model"]["elevation_head_sha256"]) == 64
    line = next(line for line in said.splitlines() if line.startswith("the orbit turns"))
    start, reach = run["orbit"]["start_deg"], run["orbit"]["reach_deg"]
    assert f"fitted from {start:.1f}, estimated from CLIP features, within {reach:.1f} of it" in line
    assert abs(start - np.degrees(0.35)) < 5 and abs(start - 10) > 0.01
    assert abs(run["orbit"]["elevation_deg"] - start) <= reach + 1e-3
    assert main(["doctor", f"--model={model}"]) == 0
    assert "elevation head: off by 1.7 degrees on held-out renders" in capsys.readouterr().out
    # Where the elevation is given, the head decides nothing.
    code, run, _ = views(model.parent, "given", "--elevation_deg=5")
    assert code == 0 and "elevation_head_sha256" not in run["settings"]["model"]

    whole = head_file(model).read_bytes()
    shutil.copy(checkpoints["sv3d_p"], tmp_path / "sv3d" / "sv3d_p.safetensors")
    code, run, said = views(tmp_path / "sv3d" / "sv3d_p.safetensors", "other")
    assert code == 2 and run is None and said.count("\n") == 1 and "another image encoder" in said
    head_file(model).write_bytes(whole[:-3])
    code, run, said = views(model, "damaged")
    assert code == 2 and run is None and said.count("\n") == 1 and "not a whole safetensors file" in said
    assert main(["doctor", f"--model={model}"]) == 2 and "not a whole safetensors file" in capsys.readouterr().out
    elevation.save_head(head_file(model), elevation.Head(weight[:4], 0.35, own, -0.2, 0.9, 0.03))
    code, run, said = views(model, "narrow")
    assert code == 2 and run is None and "reads 4 features, but the model's image encoder has 6" in said
