"""`im3d convert`: a small checkpoint there and back, and what it refuses."""

import pytest

from im3d_jax.cli.main import main
from im3d_jax.weights import conversion
from im3d_jax.weights.tensor_files import list_tensors, read_tensor, write_tensors


@pytest.fixture
def weights(small, checkpoints, tmp_path):
    """Stable Diffusion without its text encoder."""
    tensors = {name: t for name, t in list_tensors([checkpoints["sd"]]).items() if not name.startswith("cond_stage")}
    path = tmp_path / "sd.safetensors"
    write_tensors(path, [(name, t.dtype, t.shape, lambda t=t: read_tensor(t)) for name, t in tensors.items()])
    return path


def test_there_and_back(weights, tmp_path, capsys):
    folder, again = tmp_path / "sd", tmp_path / "again.safetensors"
    assert main(["convert", f"--model={weights}", "--to=diffusers", f"--out={folder}", "--family=sd15"]) == 0
    printed = capsys.readouterr().out
    assert f"{weights} holds no text_encoder: neither does the output" in printed
    assert "sd15, sgm to diffusers" in printed and "epsilon of the group norms: sgm's" in printed
    # The family was recorded, so it need not be given again.
    assert main(["convert", f"--model={folder}", "--to=sgm", f"--out={again}"]) == 0
    sizes = [path.stat().st_size for path in (weights, again)]
    assert 0 < sizes[1] - sizes[0] < 200  # the record in the header


@pytest.mark.parametrize("to", ["diffusers", "sgm"])
def test_what_is_interrupted_leaves_nothing(weights, to, tmp_path, capsys, monkeypatch):
    """A folder without its record would open as another model; a part of a file would take room for nothing."""
    source, out = weights, tmp_path / "out"
    if to == "sgm":
        source = tmp_path / "sd"
        assert main(["convert", f"--model={weights}", "--to=diffusers", f"--out={source}", "--family=sd15"]) == 0
    before = sorted(tmp_path.rglob("*"))
    command = ["convert", f"--model={source}", f"--to={to}", f"--out={out}", "--family=sd15"]
    # The last steps: the record of a folder, tensors of a file.
    name = "diffusers_configs" if to == "diffusers" else "read_tensor"
    step, calls = getattr(conversion, name), []

    def stop(*arguments):
        calls.append(arguments)
        if to == "diffusers" or len(calls) > 5:
            raise KeyboardInterrupt
        return step(*arguments)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(conversion, name, stop)
        assert main(command) == 130
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and calls
    assert f"nothing was written to {out}" in captured.err and "goes on from there" not in captured.err
    assert sorted(tmp_path.rglob("*")) == before
    assert main(command) == 0
    assert sorted(tmp_path.rglob("*.partial")) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--to=sgm", "--out=x"], "--model is missing"),
        (["--model={weights}", "--out=x"], "--to is missing"),
        (["--model={weights}", "--to=sgm"], "--out is missing"),
        (["--model={weights}", "--to=sgm", "--out=x", "--family=sd15"], "has the sgm layout already"),
        (["--model={weights}", "--to=diffusers", "--out=x", "--family=sd99"], "unknown family 'sd99'"),
        (["--model={weights}", "--to=diffusers", "--out={weights}", "--family=sd15"], "exists: give a new folder"),
        (["--model=nowhere/at/all", "--to=sgm", "--out=x"], "no such file or folder, and not a hub id"),
        (
            ["--model={weights}", "--to=diffusers", "--out=x", "--family=sd15", "--frames=21"],
            "sd15 has a fixed number of frames (1): --frames applies to svd and svd_xt only",
        ),
        (["--model={weights}", "--to=torch", "--out=x"], "diffusers|sgm"),
    ],
)
def test_refusals_are_one_line(weights, arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *(argument.format(weights=weights) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_hub_id_without_network(capsys, tmp_path):
    assert main(["convert", "--model=stabilityai/sv3d", "--to=diffusers", f"--out={tmp_path}/x"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "about 9.4 GB" in error and "--model=FOLDER" in error
