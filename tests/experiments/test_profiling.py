"""Kernels of a trace by time."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from experiments.benchmarks import profiling
from im3d_jax.errors import InputError


def stream(name, *events):
    made = [SimpleNamespace(name=n, duration_ns=1e6 * ms, stats=[("hlo_op", op)]) for n, op, ms in events]
    return SimpleNamespace(name=name, lines=[SimpleNamespace(name="Stream #1", events=made)])


def test_times_and_launches_are_of_one_call():
    gpu = stream(
        "/device:GPU:0",
        ("nvjet_tst_128", "dot.1", 4.0),
        ("loop_convert_fusion_3", "fusion.3", 1.0),
        ("nvjet_tst_128", "dot.2", 2.0),
        ("sm90_xmma_fprop_implicit_gemm", "conv.4", 9.0),
        ("cudnn_sdpa_flash_fprop", "custom.1", 3.0),
        ("loop_convert_fusion_3", "fusion.3", 2.0),
    )
    made = profiling.summarise([stream("/host:CPU", ("python", "", 100.0)), gpu], calls=2, count=2)
    assert made["kernels_ms"] == pytest.approx(10.5) and made["launches"] == 3
    assert made["kinds_ms"] == pytest.approx(
        {"convolution": 4.5, "matrix product": 3.0, "attention": 1.5, "elementwise": 1.5}
    )
    assert made["top"] == [["sm90_xmma_fprop_implicit_gemm", "conv.4", 0.5, 4.5], ["nvjet_tst_128", "dot.1", 1.0, 3.0]]


def test_a_device_without_kernels_is_a_wrong_flag():
    with pytest.raises(InputError, match="--kernels: the trace holds no kernels"):
        profiling.kernels(lambda: jnp.ones(3) + 1, 5)
