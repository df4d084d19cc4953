"""Devices, processes and accumulated parts of a batch change rounding alone; each case in processes of its own."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest


ROOT = pathlib.Path(__file__).resolve().parents[2]


def start(out, devices, **arguments):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.training.sharded_runs", str(out)]
    command += [f"{name}={value}" for name, value in arguments.items()]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    out = tmp_path_factory.mktemp("sharded") / "one.json"
    finish(start(out, 1))
    return json.loads(out.read_text())


def compare(out, one):
    found = json.loads(out.read_text())
    np.testing.assert_allclose(found["losses"], one["losses"], rtol=1e-5)
    for name, value in one["params"].items():
        np.testing.assert_allclose(found["params"][name], value, atol=1e-5, err_msg=name)
    return found


def test_eight_devices_equal_one(one, tmp_path):
    finish(start(tmp_path / "eight.json", 8, data=4, fsdp=2))
    found = compare(tmp_path / "eight.json", one)
    assert found["devices"] == 8 and found["split"] > 10, "parameters and moments lie in halves"


def test_two_processes_equal_one(one, tmp_path):
    port = free_port()
    pair = [start(tmp_path / "two.json", 4, data=8, processes=2, process=number, port=port) for number in range(2)]
    finish(*pair)
    assert compare(tmp_path / "two.json", one)["devices"] == 8


@pytest.mark.parametrize("arguments", [{"micro_batches": 4}, {"micro_batches": 2, "data": 2}], ids=["one", "sharded"])
def test_accumulated_parts_equal_the_batch(one, arguments, tmp_path):
    finish(start(tmp_path / "parts.json", arguments.get("data", 1), **arguments))
    compare(tmp_path / "parts.json", one)
