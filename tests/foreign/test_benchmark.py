"""The benchmark of foreign networks and `im3d doctor`, in miniature."""

import json

import pytest
from absl import flags

from experiments import benchmark_foreign
from im3d_jax.cli import common, stages
from im3d_jax.cli.main import main


@pytest.fixture
def lines(small, monkeypatch, capsys):
    """Runs the benchmark and returns its lines."""
    monkeypatch.setattr(common, "start_jax", lambda: None)
    monkeypatch.setattr(stages, "TURNTABLE_SIDE", 32)
    monkeypatch.setattr(stages, "TURNTABLE_FRAMES", 8)

    def run(what, *arguments):
        values = flags.FlagValues()
        benchmark_foreign.define_flags(values)
        values(["benchmark", "--repeats=1", *arguments])
        benchmark_foreign.run(what, values)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_networks(lines):
    (line,) = lines("unet", "--family=sv3d_p", "--memory=16gb")
    assert line["rows"] == 1 and line["latent"] == [16, 16] and line["frames"] == 5
    # Twice the multiplications: the first and last convolutions alone take 2 million.
    assert line["tflop"] > 3e-6
    assert line["tflop_per_s"] == pytest.approx(1e3 * line["tflop"] / line["median_ms"], rel=1e-3)
    both, one = lines("decoder", "--family=sv3d_u", "--memory=80gb,16gb", "--frames=6", "--side=64")
    assert one["at_once"] == 1 and both["at_once"] == 3 and one["frames"] == 6
    assert one["compile_s"] > 0 and one["program_gib"] > 0
    # However many frames go through at a time, all are counted.
    assert one["tflop"] == both["tflop"] > 0


def test_generate(lines):
    (line,) = lines("generate", "--quality=draft", "--rounds=1")
    assert line["network_evaluations"] == 2 * 1 + 2 * 5 and line["second_run_s"] > 0 and "error" not in line
    assert {"views", "cameras", "fit0", "refine1", "fit1"} <= set(line["stages_s"])
    assert {"encoder", "unet", "decoder", "fit"} == set(line["estimate_gib"])


def test_doctor(small, monkeypatch, checkpoints, capsys):
    monkeypatch.setattr(common, "start_jax", lambda: None)
    assert main(["doctor", f"--model={checkpoints['folder']}"]) == 0
    shown = capsys.readouterr().out
    assert "sv3d_u (diffusers), draws orbits" in shown and "--memory=16gb: encoder" in shown
    assert main(["doctor", f"--model={checkpoints['sd']}"]) == 0
    assert "draws pictures from prompts" in capsys.readouterr().out
    assert main(["doctor", "--vocabulary", f"--model={checkpoints['folder']}"]) == 2
    assert "no list of words" in capsys.readouterr().err
