"""The program that writes data sets, and the benchmark of the loader."""

import importlib.util
import json

import numpy as np
import pytest

from experiments import build_tfds
from experiments.benchmarks import loader
from im3d_jax.data.encoded import EncodedWriter
from im3d_jax.data.turntable_sets import open_turntables


def test_a_data_set_and_its_loader(tmp_path, capsys):
    assert build_tfds.PROGRAM(["--turntables=toybox:6:8", f"--out={tmp_path}", "--shards=2"]) == 0
    said = capsys.readouterr()
    folder = said.out.strip()
    assert len(open_turntables(folder)) == 6
    assert "turntables: 3/6, about " in said.err and "turntables: done in" in said.err
    file = tmp_path / "loader.json"
    arguments = [f"--source={folder}", "--batch=2", "--workers=0,2", "--batches=3", "--step_ms=100", f"--json={file}"]
    assert loader.PROGRAM(arguments) == 0
    lines, kept = capsys.readouterr().out.splitlines(), json.loads(file.read_text())
    assert len(lines) == 3 and all(line.endswith("x 20.0/s") for line in lines[1:])
    assert [rate["workers"] for rate in kept["rates"]] == [0, 2] and kept["examples"] == 6
    assert kept["needed_examples_per_s"] == 20.0 and all(rate["examples_per_s"] > 0 for rate in kept["rates"])


def test_loader_of_encoded_turntables(tmp_path, capsys):
    writer = EncodedWriter(tmp_path, {})
    for number in range(2):
        writer.add(number, str(number), "", {"latents": np.zeros((2, 4, 4, 4), np.float16)})
    writer.finish()
    assert loader.PROGRAM([f"--source={tmp_path}", "--batch=1", "--workers=1", "--batches=2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="needs the extra beam")
def test_with_beam(tmp_path, capsys):
    arguments = ["--turntables=toybox:4:8", f"--out={tmp_path}", "--beam", "--shards=2"]
    assert build_tfds.PROGRAM([*arguments, "--beam_option=--direct_num_workers=1"]) == 0
    assert open_turntables(capsys.readouterr().out.strip())[3].key == "train-3"


@pytest.mark.parametrize(
    ("program", "arguments", "line"),
    [
        (build_tfds.PROGRAM, ["--out=x"], "--turntables is missing"),
        (build_tfds.PROGRAM, ["--turntables=toybox:2"], "--out is missing"),
        (build_tfds.PROGRAM, ["--turntables=toybox:2", "--out=x", "--beam_runner=y"], "--beam_runner is for --beam"),
        (build_tfds.PROGRAM, ["--turntables=none", "--out=x"], "no turntables at none"),
        (loader.PROGRAM, ["--source=none"], "no turntables at none"),
        (loader.PROGRAM, ["--workers=x"], "--workers=x: expected numbers"),
        (loader.PROGRAM, ["--step_ms=0"], "--step_ms=0.0: expected more than 0"),
    ],
)
def test_wrong_flags(program, arguments, line, capsys):
    assert program(arguments) == 2
    assert line in capsys.readouterr().err.splitlines()[-1]
