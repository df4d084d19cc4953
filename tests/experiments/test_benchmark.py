"""The benchmark's scenes and lines."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from absl import flags

from experiments import benchmark, scenes


def test_torus_and_orbit_are_those_of_the_published_figures():
    path = pathlib.Path(__file__).resolve().parents[3] / "shared" / "scenes.py"
    if not path.is_file():
        pytest.skip("no ../shared/scenes.py beside this checkout")
    spec = importlib.util.spec_from_file_location("reference_scenes", path)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    means, quats, scales, opacities, colours = reference.torus(64)
    mine = scenes.torus(64)
    np.testing.assert_allclose(mine.means, means, atol=1e-6)
    np.testing.assert_allclose(mine.quats, quats, atol=1e-6)
    np.testing.assert_allclose(np.exp(mine.log_scales), scales, rtol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-mine.opacity_logits)), opacities, atol=1e-6)
    np.testing.assert_allclose(mine.sh[:, 0] * scenes.SH_CONSTANT + 0.5, colours, atol=1e-6)
    poses, intrinsics = reference.orbit(views=3, size=32)
    cameras = scenes.orbit(3, 32)
    np.testing.assert_allclose(cameras.world_to_camera, poses, atol=1e-6)
    np.testing.assert_allclose(cameras.intrinsics, intrinsics, rtol=1e-6)


def test_garden_names_the_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no points at"):
        scenes.garden(tmp_path / "garden.npz")


def test_rasterizer_prints_one_json_line_a_case(capsys, tmp_path):
    out = tmp_path / "lines.jsonl"
    values = flags.FlagValues()
    benchmark.define_flags(values)
    values(["benchmark", "--gaussians=40", "--views=1,2", "--size=24", "--repeats=1", f"--out={out}"])
    benchmark.run("rasterizer", values)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["views"] for line in lines] == [1, 2]
    assert all(line["pairs"] > 0 and line["forward_backward_median_ms"] > 0 for line in lines)
    assert lines == [json.loads(line) for line in out.read_text().splitlines()]
