"""The program that compiles for TPUs: what it refuses, and what it writes; compiled in tests/training."""

import importlib.util
import json

import pytest

from experiments import compile_tpu
from im3d_jax.errors import InputError


LINE = {
    "case": "a", "topology": "v5e:2x4", "set": ["mesh.fsdp=8"], "chips": 8, "fits": True, "batch": 16,
    "bytes": 3 * 2**30, "arguments": 2**30, "temporaries": 2 * 2**30, "outputs": 2**30, "aliased": 2**30,
    "flops": 2.5e12, "collectives": {"all-reduce": 2}, "compile_seconds": 61.2,
    "versions": {"jax": "0.10.2", "libtpu": "0.0.52"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in compile_tpu.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_without_libtpu(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    assert compile_tpu.PROGRAM(["--case=render"]) == 2
    line = capsys.readouterr().err
    assert "pip install 'im3d-jax[tpu]'" in line and line.count("\n") == 1


def test_wrong_flags(monkeypatch, capsys):
    assert compile_tpu.PROGRAM(["--table=page.md"]) == 2
    assert "--table needs --json" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert compile_tpu.PROGRAM(["--case=nothing"]) == 2
    assert "--case=nothing: expected one of sv3d_sampler" in capsys.readouterr().err


def test_finished_cases_stay(tmp_path, monkeypatch, capsys):
    """A case that the file holds is not compiled again; other settings of it are."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    measured = []
    monkeypatch.setattr(compile_tpu, "measure", lambda *arguments: measured.append(arguments) or {"chips": 1})
    file = tmp_path / "tpu.jsonl"
    command = ["--case=render", "--case=fit_512", f"--json={file}"]
    for _ in range(2):
        assert compile_tpu.PROGRAM(command) == 0
    assert [json.loads(line)["case"] for line in file.read_text().splitlines()] == ["render", "fit_512"]
    assert compile_tpu.PROGRAM([*command, "--topology=v5e:2x4"]) == 0
    assert len(measured) == 4
    assert "render: in" in capsys.readouterr().out


def test_collectives():
    text = """
      %a = f32[8]{0} all-reduce(%x), replica_groups={}
      %b = (f32[1], f32[8]) all-gather-start(%y), dimensions={0}
      %c = f32[8] all-gather-done(%b)
      %fusion.all-reduce = f32[8] fusion(%a)
    """
    assert compile_tpu.collectives(text) == {"all-reduce": 1, "all-gather": 1}


def test_the_tables_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{compile_tpu.BEGIN}\nold\n{compile_tpu.END}\nafter\n")
    refused = {"case": "b", "topology": "v5e:1x1", "set": [], "fits": False, "error": "out of memory"}
    compile_tpu.renew(page, [{**LINE, "bytes": 1}, refused, LINE])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "Compiled by jax 0.10.2 and libtpu 0.0.52." in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `a` | v5e:2x4 | `mesh.fsdp=8` | 16 | **3.00** | 1.00 | 2.00 | 61 s |",
        "| `a` | v5e:2x4 | 2.5 | 2 | - | - | - | - |",
    ]
    other = tmp_path / "other.md"
    other.write_text("nothing\n")
    with pytest.raises(InputError, match="has no lines"):
        compile_tpu.renew(other, [LINE])
