"""Batches over eight devices draw what one device draws, and what each row draws alone; in a process of its own."""

import os
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_eight_devices(tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2]),
    }
    script = pathlib.Path(__file__).with_name("eight_devices.py")
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 devices" in done.stdout
