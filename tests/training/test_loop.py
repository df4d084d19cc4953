"""Runs: resuming to the same bits, every way to end, and what a folder refuses."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from im3d_jax.errors import InputError
from tests.training import toy
from tests.training.toy import make_stage, run


ROOT = pathlib.Path(__file__).resolve().parents[2]


def figures(workdir):
    """{step: (loss, gradient norm, mean row)} of the log; a step that stands there twice is an error."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    return {line["step"]: (line["loss"], line["gradient_norm"], line["first_row"]) for line in lines}


def out(workdir):
    return json.loads((workdir / "out.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run that checkpoints as the others do."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert run(workdir, checkpoint_every=4, line=lambda text: None)
    return workdir


def test_the_loss_falls_and_averages_are_written(whole):
    found = figures(whole)
    assert list(found) == [4, 8, 12, 16, 20, 24]
    assert found[24][0] < found[4][0]
    assert len(out(whole)) == 3 and np.isfinite(out(whole)).all()
    assert [json.loads(line)["step"] for line in (whole / "runs.jsonl").read_text().splitlines()] == [0]


@pytest.mark.slow
def test_killed_again_and_again_the_run_ends_with_the_same_bits(whole, tmp_path):
    """SIGKILL and SIGTERM at any moment, ten times: losses, data and weights are those of the uninterrupted run."""
    workdir, lots, kills = tmp_path / "killed", random.Random(0), 0
    command = [sys.executable, "-m", "tests.training.toy", str(workdir), "checkpoint_every=4"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    while kills < 10:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        # Kills fall anywhere behind the first line of the run, in steps as well as in checkpoints.
        process.stdout.readline()
        time.sleep(lots.uniform(0.0, 0.4))
        if process.poll() is not None and process.returncode == 0:
            shutil.rmtree(workdir)  # it was faster than the kill: once more from the start
            continue
        process.send_signal(lots.choice((signal.SIGKILL, signal.SIGTERM)))
        rest, _ = process.communicate()
        if process.returncode == -signal.SIGTERM and "finished at step" in rest:
            shutil.rmtree(workdir)  # the same: the signal came between the end of the run and that of the process
            continue
        assert process.returncode in (0, -signal.SIGKILL)
        kills += 1
        if process.returncode == 0 and (workdir / "out.json").exists() and figures(workdir).get(24):
            shutil.rmtree(workdir)
    finished = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=120)
    assert finished.returncode == 0, finished.stdout
    assert figures(workdir) == figures(whole) and out(workdir) == out(whole)


def test_sigterm_saves_and_ends_with_success(tmp_path):
    command = [sys.executable, "-m", "tests.training.toy", str(tmp_path / "run"), "steps=100000", "log_every=50"]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped; the same command resumes at step" in rest
    lines = []
    assert not run(tmp_path / "run", steps=100_000, log_every=50, max_seconds=0.0, line=lines.append)
    assert lines[0].startswith("resuming at step ")


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    newest = tmp_path / "run/checkpoints/24"
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    lines = []
    assert run(tmp_path / "run", checkpoint_every=4, line=lines.append)
    assert "the checkpoint of step 24 cannot be read and is set aside" in lines[0]
    assert lines[1] == "resuming at step 20 of 24"
    assert figures(tmp_path / "run") == figures(whole) and out(tmp_path / "run") == out(whole)


def test_length_and_rate_may_change_and_are_recorded(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    assert run(tmp_path / "run", steps=32, rate=0.01, line=lambda text: None)
    assert list(figures(tmp_path / "run"))[-1] == 32
    starts = [json.loads(line) for line in (tmp_path / "run/runs.jsonl").read_text().splitlines()]
    assert [(start["step"], start["run"]["steps"]) for start in starts] == [(0, 24), (24, 32)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "holds a run of something else .seed was 0, now 1."),
        ({"stage": make_stage(width=4)}, "holds a run of something else .width was 3, now 4."),
        # Parameters that the identity does not tell.
        (
            {"stage": dataclasses.replace(make_stage(width=4), identity={"width": 3})},
            "is of another model .*kernel has shape .3,., expected .4,.",
        ),
    ],
)
def test_another_run_is_refused(whole, change, message, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/checkpoints").rglob("*")}
    with pytest.raises(InputError, match=message) as error:
        run(tmp_path / "run", **change)
    assert "\n" not in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run/checkpoints").rglob("*")} == before


@pytest.mark.parametrize(
    "change",
    [
        {"steps": -5},
        {"batch": 0},
        {"ema": 1.0},
        {"log_every": 0},
        {"workers": 0},
        {"evaluate_every": -1},
        {"max_seconds": float("nan")},
        {"fit_seconds": 0.0},
        {"profile": (-1, 2)},
    ],
)
def test_settings_outside_their_range_are_refused(change, tmp_path):
    with pytest.raises(InputError, match="expected"):
        run(tmp_path, **change)


def test_a_run_that_cannot_learn_is_refused(tmp_path):
    """As where temporal layers are trained under a last layer of zeros that is held."""

    def blocked(params, batch, keys):
        loss, figures = toy.objective(params, batch, keys)
        return jax.lax.stop_gradient(loss) + 0.0 * loss, figures

    stage = dataclasses.replace(make_stage(), objective=blocked)
    with pytest.raises(InputError, match="toy: the gradient of all that is trained is 0 at step 4.*stage.start.bundle"):
        run(tmp_path, stage=stage, line=lambda text: None)
    assert not (tmp_path / "out.json").exists()


def test_two_trainers_in_one_folder(tmp_path):
    import fcntl

    tmp_path.joinpath(".lock").write_text("4711")
    with tmp_path.joinpath(".lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"another trainer \(process 4711\) writes to"):
            run(tmp_path)


def test_bad_steps_are_skipped_and_many_end_the_run(tmp_path):
    stage = make_stage(broken=[5])
    assert run(tmp_path / "one", stage=stage, steps=20, line=lambda text: None)
    skipped = [json.loads(line)["skipped"] for line in (tmp_path / "one/metrics.jsonl").read_text().splitlines()]
    assert 0 < sum(skipped) * 4 <= 3, "one example of 37 in 80 drawn"
    assert np.isfinite(out(tmp_path / "one")).all()
    lines = []
    with pytest.raises(InputError, match="3 steps in a row were not finite") as error:
        run(tmp_path / "all", stage=make_stage(broken=range(37)), bad_steps=3, line=lines.append)
    assert "learning_rate" in str(error.value)


def test_a_full_disk_loses_nothing(tmp_path, whole):
    """The checkpoint that cannot be written ends the run with one line; the one before is whole."""
    shutil.copytree(whole, tmp_path / "run")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "sys.argv = ['toy', *sys.argv[1:]]; import runpy; runpy.run_module('tests.training.toy', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run"), "steps=40", "checkpoint_every=4"]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1 and ended.stderr.strip().splitlines()[-1].startswith("error: cannot write")
    lines = []
    assert run(tmp_path / "run", steps=28, checkpoint_every=4, line=lines.append)
    assert "resuming at step 24 of 28" in lines


@pytest.mark.parametrize(("every", "expected"), [(3, [3, 6, 9, 10]), (4, [4, 8, 10]), (0, [])])
def test_evaluations_do_not_hang_on_the_steps_of_the_log(tmp_path, every, expected):
    """Every so many steps and at the end."""
    stage = dataclasses.replace(make_stage(), evaluate=lambda params: {"judged": 1.0})
    assert run(tmp_path, stage=stage, steps=10, evaluate_every=every, line=lambda text: None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "judged" in line] == expected
    assert {4, 8, 10} <= {line["step"] for line in lines}
