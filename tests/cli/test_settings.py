"""Settings that decide whether a run folder may be continued."""

import dataclasses

import pytest
from absl import flags

from im3d_jax import pipeline
from im3d_jax.cli import common
from im3d_jax.output.run_folder import RunFolder, RunFolderError
from im3d_jax.reconstruction import PRESETS


def settings_of(model: str) -> dict:
    values = flags.FlagValues()
    common.register_run_flags(values)
    values(["im3d", f"--model={model}"])
    return common.run_settings(values)


def test_other_weights_in_the_same_folder_are_other_settings(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "unet.safetensors"
    weights.write_bytes(b"one")
    before = settings_of(str(tmp_path))
    assert settings_of(str(tmp_path)) == before
    weights.write_bytes(b"two")
    assert settings_of(str(tmp_path)) != before


def test_the_bundled_model_is_known_by_its_content():
    assert len(settings_of("tiny")["model_sha256"]) == 64


@pytest.mark.parametrize("model", ["nowhere/at/all", "x" * 5000])
def test_a_model_that_is_not_there_is_left_to_the_loader(model):
    assert settings_of(model)["model_sha256"] is None


def test_what_a_quality_stands_for_is_among_the_settings(monkeypatch):
    before = settings_of("tiny")
    assert before["sampling"]["refine"]["steps"] == pipeline.QUALITIES["standard"].refine.steps
    assert before["fit"]["steps"] == PRESETS["standard"].steps
    monkeypatch.setitem(PRESETS, "standard", dataclasses.replace(PRESETS["standard"], mask_weight=2.0))
    assert settings_of("tiny") != before


def test_a_folder_of_another_version_is_refused_by_the_setting_that_differs(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, settings_of("tiny"))
    folder.start()
    folder.stage("image", lambda files: files.write("image.png", b"made"))
    RunFolder(tmp_path, settings_of("tiny"))
    monkeypatch.setitem(PRESETS, "standard", dataclasses.replace(PRESETS["standard"], lr_means=(1e-3, 1e-4)))
    with pytest.raises(RunFolderError, match=r"\(fit.lr_means was \[0.005, 0.0001\], now \[0.001, 0.0001\]\)"):
        RunFolder(tmp_path, settings_of("tiny"))
