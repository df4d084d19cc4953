"""What the benchmarks share: lines that outlive failing cases, and peers that cannot run."""

import json

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks.timing import Lines, require_cuda, require_one_of, timed
from im3d_jax.errors import InputError


def test_a_failing_case_does_not_end_the_others(capsys, tmp_path):
    def run(case):
        if case["slab"] == 7:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory\nmore")
        if case["slab"] == 8:
            raise InputError("not this one")
        return {"slab": case["slab"], "ms": 1.23456789}

    cases = [{"slab": number, "size": "24"} for number in (7, 8, 9)]
    path = tmp_path / "lines.jsonl"
    Lines(str(path)).measure(cases, run, lambda case: {"slab": case["slab"], "case": "torus"})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("error") for line in lines] == ["RESOURCE_EXHAUSTED: no memory", "not this one", None]
    assert lines[0]["case"] == "torus" and lines[2]["ms"] == 1.23457 and "size" not in lines[2]
    assert all(line["device"] and line["jax"] == jax.__version__ for line in lines)
    with pytest.raises(ZeroDivisionError):
        Lines().measure(cases, lambda case: 1 / 0, dict)
    with pytest.raises(InputError, match="No such file or directory"):
        Lines(str(tmp_path / "none/lines.jsonl"))


def test_times_are_of_the_repeats_after_three_to_warm_up():
    calls = []
    figures = timed(lambda: calls.append(1) or jnp.ones(3), 4)
    assert len(calls) == 7 and 0 < figures["min_ms"] <= figures["median_ms"]


def test_peers_that_cannot_run_are_named():
    with pytest.raises(InputError, match="--peer: no_such_peer is not installed here; install no_such_peer"):
        require_cuda("--peer", "no_such_peer")
    with pytest.raises(InputError, match="one_peer and another_peer is not installed here; install one_peer or"):
        require_one_of("--peer", ["one_peer", "another_peer"])
    require_one_of("--peer", ["one_peer", "json"])


@pytest.mark.parity
def test_peers_need_a_cuda_device():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("PyTorch finds a CUDA device here")
    with pytest.raises(InputError, match="--peer: PyTorch finds no CUDA device, which json is timed on"):
        require_cuda("--peer", "json")
