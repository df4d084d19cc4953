"""The benchmark's scenes and lines."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import app, flags

import splat
from experiments import benchmark, benchmark_foreign, scenes


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


def test_garden_names_the_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no points at"):
        scenes.garden(tmp_path / "garden.npz")


def parse(*given):
    values = flags.FlagValues()
    benchmark.define_flags(values)
    values(["benchmark", *given])
    return values


def printed(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


TINY = "--gaussians=40", "--views=1", "--size=24", "--repeats=1"


def test_rasterizer_prints_one_json_line_a_case(capsys, tmp_path):
    out = tmp_path / "lines.jsonl"
    benchmark.run("rasterizer", parse(*TINY, f"--out={out}"))
    (line,) = lines = printed(capsys)
    assert line["pairs"] > 0 and line["forward_backward_median_ms"] > 0 and line["forward_program_gib"] > 0
    assert lines == [json.loads(line) for line in out.read_text().splitlines()]


def test_sweep_takes_every_combination_and_outlives_a_failing_case(capsys, monkeypatch):
    def case(gaussians, cameras, repeats, options, passes):
        if options.slab == 7:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory\nmore")
        return {"tile": options.tile_size, "exact": options.exact_tiles, "passes": passes}

    monkeypatch.setattr(benchmark, "rasterizer_case", case)
    benchmark.run(
        "rasterizer", parse(*TINY, "--tile_size=auto,8", "--slab=7,16", "--exact_tiles=1", "--passes=forward")
    )
    lines = printed(capsys)
    assert [(line["tile_size"], str(line["slab"])) for line in lines] == [
        ("auto", "7"),
        ("auto", "16"),
        ("8", "7"),
        (8, "16"),
    ]
    assert [line.get("error") for line in lines] == ["RESOURCE_EXHAUSTED: no memory", None] * 2
    assert lines[3]["exact"] is True and lines[3]["passes"] == ["forward"] and lines[1]["tile"] is None
    with pytest.raises(app.UsageError, match="--slab got 'x'"):
        benchmark.run("rasterizer", parse(*TINY, "--slab=x"))


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--gaussians=40,0", "--gaussians got 0; expected at least 1"),
        ("--views=0", "--views got 0"),
        ("--size=0", "--size got 0"),
        ("--tile_size=0", "--tile_size got 0"),
        ("--block_size=0", "--block_size got 0"),
        ("--slab=0", "--slab got 0"),
    ],
)
def test_nothing_is_timed_with_a_size_of_zero(capsys, flag, words):
    with pytest.raises(app.UsageError, match=words):
        benchmark.run("rasterizer", parse(*TINY, flag))
    assert not printed(capsys)


def test_a_missing_garden_is_a_wrong_flag(capsys, tmp_path):
    with pytest.raises(app.UsageError, match="--garden=.*none.npz: no such file"):
        benchmark.run("rasterizer", parse(*TINY, "--scene=garden", f"--garden={tmp_path / 'none.npz'}"))
    assert not printed(capsys)


@pytest.mark.parametrize("package", ["gsplat", "diffusers"])
def test_a_peer_that_cannot_run_is_refused_before_anything_is_timed(capsys, monkeypatch, package):
    torch = pytest.importorskip("torch")
    values = flags.FlagValues()
    (benchmark if package == "gsplat" else benchmark_foreign).define_flags(values)
    values(["benchmark", f"--{package}"])

    def run():
        return benchmark.run("rasterizer", values) if package == "gsplat" else benchmark_foreign.run("unet", values)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(app.UsageError, match=f"--{package}: PyTorch finds no CUDA device"):
        run()
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(app.UsageError, match=f"--{package}: {package} is not installed here"):
        run()
    assert not printed(capsys)


def test_isolated_case_is_the_same_case_in_a_process_of_its_own(capsys, monkeypatch):
    def answer(command, **options):
        commands.append(command)
        out = "" if "--slab=7" in command else 'talk\n{"case": "torus"}\n'
        return subprocess.CompletedProcess(command, 1, out, "Traceback\nMemoryError: too much\n")

    commands = []
    monkeypatch.setattr(benchmark.subprocess, "run", answer)
    given = *TINY, "--slab=7,auto", "--passes=backward", "--isolate"
    benchmark.run("rasterizer", parse(*given))
    first, second = printed(capsys)
    assert first["error"] == "MemoryError: too much" and first["slab"] == "7" and second == {"case": "torus"}
    child = parse(*commands[1][4:])
    assert commands[1][:4] == [sys.executable, "-m", "experiments.benchmark", "rasterizer"]
    assert child.passes == ["backward"] and not child.isolate and child.repeats == 1 and child.gaussians == ["40"]


def test_stages_cover_the_rasterizer(capsys):
    benchmark.run("rasterizer", parse(*TINY, "--stages"))
    (line,) = printed(capsys)
    names = "projection depth_sort binning first_pass second_pass composite gradient_rows gradient_sums"
    assert all(line[f"{name}_median_ms"] > 0 for name in names.split())
    assert 0 < line["live_blocks"] <= line["blocks"] <= line["pairs"]
