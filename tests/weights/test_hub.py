"""Finding a model: what is on this machine first, and downloads that were interrupted."""

import pytest

from im3d_jax.errors import WeightsError
from im3d_jax.weights.checkpoints import open_checkpoint
from im3d_jax.weights.hub import find_model
from im3d_jax.weights.miniature import miniature


def test_paths_need_no_hub(tmp_path):
    assert find_model(str(tmp_path)) == tmp_path


def test_a_download_that_was_interrupted_goes_on(monkeypatch, tmp_path, checkpoints):
    hub = pytest.importorskip("huggingface_hub")
    snapshot, asked = tmp_path / "snapshot", []
    snapshot.mkdir()
    (snapshot / "README.md").write_text("x")
    whole = [path for path in checkpoints["folder"].rglob("*") if path.is_file() and path.suffix != ".md"]
    offline = True

    def download(model, **options):
        asked.append(options.get("local_files_only", False))
        if not asked[-1] and not offline:
            for path in whole:
                target = snapshot / path.relative_to(checkpoints["folder"])
                target.parent.mkdir(exist_ok=True, parents=True)
                target.write_bytes(path.read_bytes())
            (snapshot / "scheduler").mkdir(exist_ok=True)
            (snapshot / "scheduler/scheduler_config.json").write_text("{}")
        return str(snapshot)

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(WeightsError, match="holds no safetensors file.*--model=FOLDER") as raised:
        find_model("stabilityai/other")
    assert "\n" not in str(raised.value)
    offline = False
    for lost in ("vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json", "README.md"):
        (snapshot / lost).unlink(missing_ok=True)
        asked.clear()
        assert find_model("stabilityai/other") == snapshot
        # The last one is nothing that is read.
        assert asked == ([True] if lost == "README.md" else [True, False])
    assert open_checkpoint(snapshot, preset=miniature("sv3d_u")).preset.name == "sv3d_u"
