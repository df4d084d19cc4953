"""The rasterizer's benchmark: its scenes, its sweeps and its lines."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

import splat
from experiments.benchmarks import fit_steps, rasterizer, scenes
from im3d_jax.errors import InputError


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
    np.testing.assert_allclose(mine.sh[:, 0] * splat.SH_C0 + 0.5, colours, atol=1e-6)
    poses, intrinsics = reference.orbit(views=3, size=32)
    cameras = scenes.orbit(3, 32)
    np.testing.assert_allclose(cameras.world_to_camera, poses, atol=1e-6)
    np.testing.assert_allclose(cameras.intrinsics, intrinsics, rtol=1e-6)


def parse(*given):
    values = flags.FlagValues()
    rasterizer.define_flags(values)
    values(["rasterizer", *given])
    return values


def printed(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


TINY = "--gaussians=40", "--views=1", "--size=24", "--repeats=1"


def test_one_json_line_a_case(capsys, tmp_path):
    out = tmp_path / "lines.jsonl"
    assert rasterizer.PROGRAM([*TINY, f"--out={out}"]) == 0
    (line,) = lines = printed(capsys)
    assert line["pairs"] > 0 and line["forward_backward_median_ms"] > 0 and line["forward_program_gib"] > 0
    assert (line["case"], line["gaussians"], line["views"], line["width"]) == ("torus", 40, 1, 24)
    assert line["tile_size"] == "auto" and line["block_size"] == 32 and line["exact_tiles"] is False
    assert lines == [json.loads(line) for line in out.read_text().splitlines()]


def test_a_sweep_takes_every_combination():
    cases = rasterizer.sweep(parse(*TINY, "--tile_size=auto,8", "--slab=7,16", "--exact_tiles=1"))
    assert [(case["tile_size"], case["slab"]) for case in cases] == [
        ("auto", "7"),
        ("auto", "16"),
        ("8", "7"),
        ("8", "16"),
    ]
    wanted = splat.RenderOptions(tile_size=8, block_size=32, slab=16, unroll=None, exact_tiles=True)
    assert rasterizer.options_of(cases[3]) == wanted


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--gaussians=40,0", "--gaussians got 0; expected at least 1"),
        ("--views=0", "--views got 0"),
        ("--size=0", "--size got 0"),
        ("--tile_size=0", "--tile_size got 0"),
        ("--block_size=0", "--block_size got 0"),
        ("--block_size=auto", "--block_size got 'auto'; expected whole numbers such as --block_size=32"),
        ("--slab=0", "--slab got 0"),
        ("--slab=x", "--slab got 'x'"),
    ],
)
def test_nothing_is_timed_with_a_wrong_size(capsys, flag, words):
    assert rasterizer.PROGRAM([*TINY, flag]) == 2
    shown = capsys.readouterr()
    assert words in shown.err and shown.err.count("\n") == 1 and not shown.out


def test_a_missing_garden_is_a_wrong_flag(capsys, tmp_path):
    assert rasterizer.PROGRAM([*TINY, "--scene=garden", f"--garden={tmp_path / 'none.npz'}"]) == 2
    shown = capsys.readouterr()
    assert "none.npz: no such file; expected the garden scene's points" in shown.err and not shown.out
    with pytest.raises(InputError, match="no such file"):
        scenes.garden(tmp_path / "garden.npz")


def test_isolated_case_is_the_same_case_in_a_process_of_its_own():
    def launch(command, **options):
        commands.append(command)
        out = "" if "--slab=7" in command else 'talk\n{"case": "torus"}\n'
        return subprocess.CompletedProcess(command, 1, out, "Traceback\nMemoryError: too much\n")

    commands, values = [], parse(*TINY, "--slab=7,auto", "--passes=backward", "--isolate")
    first, second = (json.loads(rasterizer.run_isolated(case, values, launch)) for case in rasterizer.sweep(values))
    assert first["error"] == "MemoryError: too much" and first["slab"] == "7" and second == {"case": "torus"}
    child = parse(*commands[1][3:])
    assert commands[1][:3] == [sys.executable, "-m", "experiments.benchmarks.rasterizer"]
    assert child.passes == ["backward"] and not child.isolate and child.repeats == 1 and child.gaussians == ["40"]


def test_stages_cover_the_rasterizer(capsys):
    assert rasterizer.PROGRAM([*TINY, "--stages"]) == 0
    (line,) = printed(capsys)
    names = "projection depth_sort binning first_pass second_pass composite gradient_rows gradient_sums"
    assert all(line[f"{name}_median_ms"] > 0 for name in names.split())
    assert 0 < line["live_blocks"] <= line["blocks"] <= line["pairs"]


def test_steps_of_a_fit(capsys):
    assert fit_steps.PROGRAM([*TINY[:1], "--views=2", "--size=32", "--repeats=2"]) == 0
    (line,) = printed(capsys)
    assert (line["case"], line["gaussians"], line["views"], line["size"]) == ("fit", 40, 2, 32)
    assert 0 < line["ms_per_step"] and 0 < line["first_steps_s"] and "error" not in line
