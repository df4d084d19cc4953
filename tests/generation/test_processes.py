"""Two processes that draw as one program make what one process with as many devices makes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest


ROOT = pathlib.Path(__file__).resolve().parents[2]
LINES = 3


def start(prompts, bundle, out, *arguments, devices=1):
    command = [sys.executable, "-m", "im3d_jax", "batch", f"--prompts={prompts}", f"--model={bundle}", f"--out={out}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        [*command, "--quality=draft", *arguments], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


def finish(*processes):
    said = []
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        said.append(errors)
    return said


def views(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "views").glob("*.png"))}


@pytest.mark.slow
def test_two_processes_draw_as_one(bundle, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": "a red mug", "seed": seed}) + "\n" for seed in range(LINES)))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(prompts, bundle, one, "--batch=2", devices=2))
    together = [f"--coordinator=localhost:{port}", "--processes=2", "--batch=2"]
    said = finish(*(start(prompts, bundle, two, *together, f"--process={number}") for number in range(2)))
    assert all("waits up to" in text and "of 2 devices" in text for text in said)
    names = sorted(path.name for path in one.iterdir() if path.is_dir())
    assert len(names) == LINES
    for name in names:
        assert views(one / name) == views(two / name) and len(views(one / name)) == 4
    summaries = [json.loads((two / f"summary_{number}_of_2.json").read_text()) for number in range(2)]
    assert [held["finished"] for held in summaries] == [2, 1] and all(held["devices"] == 2 for held in summaries)


def test_shards_and_processes_are_two_ways(bundle, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "a red mug"}) + "\n")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    arguments = ["--shard=0/2", f"--coordinator=localhost:{port}", "--processes=1", "--process=0"]
    process = start(prompts, bundle, tmp_path / "out", *arguments)
    _, errors = process.communicate(timeout=300)
    # One process alone is no group: the shard stands.
    assert process.returncode == 0, errors
