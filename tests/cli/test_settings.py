"""Settings that decide whether a run folder may be continued."""

import pytest
from absl import flags

from im3d_jax.cli import common


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
