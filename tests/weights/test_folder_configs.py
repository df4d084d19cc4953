"""Fields of diffusers' JSON files that leave no trace in the tensors: used, or refused, and unknown ones named."""

import json
import re
import shutil

import pytest

from im3d_jax.errors import WeightsError
from im3d_jax.weights.checkpoints import open_checkpoint
from im3d_jax.weights.conversion import convert_checkpoint
from im3d_jax.weights.miniature import miniature, write_miniature
from im3d_jax.weights.tensor_files import file_metadata, list_tensors, read_tensor, write_tensors


SCHEDULER = "scheduler/scheduler_config.json"
UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
# Stable Diffusion 1.5's own scheduler file.
PNDM = {
    "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
    "steps_offset": 1, "trained_betas": None, "clip_sample": False,
}  # fmt: skip
# That of Stable Video Diffusion.
EULER = {
    "_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "clip_sample": False, "interpolation_type": "linear", "num_train_timesteps": 1000,
    "prediction_type": "v_prediction", "set_alpha_to_one": False, "sigma_max": 700.0, "sigma_min": 0.002,
    "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading", "timestep_type": "continuous",
    "trained_betas": None, "use_karras_sigmas": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{family: diffusers folder} of small networks."""
    place, folders = tmp_path_factory.mktemp("made"), {}
    for family, scheduler in (("sd15", PNDM), ("svd", EULER)):
        file = write_miniature(place / f"{family}.safetensors", miniature(family))
        folders[family] = place / family
        convert_checkpoint(open_checkpoint(file, preset=miniature(family)), "diffusers", folders[family])
        (folders[family] / "scheduler").mkdir(exist_ok=True)
        (folders[family] / SCHEDULER).write_text(json.dumps(scheduler))
    return folders


@pytest.fixture
def opened(made, tmp_path):
    """Opens a folder with some fields of one file changed."""

    def run(file, changes, family="sd15"):
        folder = tmp_path / family
        shutil.copytree(made[family], folder, dirs_exist_ok=True)
        target = folder / file
        before = json.loads(target.read_text()) if target.is_file() else {}
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(before | changes))
        return open_checkpoint(folder, preset=miniature(family))

    return run


@pytest.mark.parametrize("family", ["sd15", "svd"])
def test_files_as_published_are_taken_without_a_word(family, made):
    opened = open_checkpoint(made[family], preset=miniature(family))
    assert opened.remark == "" and opened.preset.autoencoder.scaling_factor == 0.18215


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        (SCHEDULER, {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is 'True'"),
        (SCHEDULER, {"beta_schedule": "linear"}, "beta_schedule is 'linear'"),
        (SCHEDULER, {"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule"),
        (SCHEDULER, {"prediction_type": "sample"}, "prediction_type is 'sample'"),
        (SCHEDULER, {"prediction_type": "flow_prediction"}, "prediction_type"),
        (SCHEDULER, {"beta_start": 0.0001}, "beta_start is '0.0001'"),
        (SCHEDULER, {"beta_end": 0.02}, "beta_end"),
        (SCHEDULER, {"beta_end": 10**400}, "beta_end"),
        (SCHEDULER, {"num_train_timesteps": 50}, "num_train_timesteps"),
        (SCHEDULER, {"trained_betas": [0.1, 0.2]}, "trained_betas"),
        (SCHEDULER, {"clip_sample": True}, "clip_sample"),
        (SCHEDULER, {"thresholding": True}, "thresholding"),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "trained for another sampler"),
        (SCHEDULER, {"_class_name": "LCMScheduler"}, "trained for another sampler"),
        (VAE, {"scaling_factor": 0}, "expected a positive number"),
        (VAE, {"scaling_factor": "large"}, "expected a positive number"),
        (VAE, {"shift_factor": 0.1159}, "shift_factor"),
        (VAE, {"latents_mean": [0.1] * 4}, "latents_mean"),
        (VAE, {"norm_num_groups": 8}, "norm_num_groups"),
        (VAE, {"act_fn": "gelu"}, "act_fn"),
        (UNET, {"attention_head_dim": [8, 8]}, "attention_head_dim is '[8, 8]'"),
        (UNET, {"attention_head_dim": 8}, "attention_head_dim is '8'"),
        (UNET, {"act_fn": "gelu"}, "act_fn is 'gelu'"),
        (UNET, {"norm_num_groups": 32}, "norm_num_groups"),
        (UNET, {"freq_shift": 1}, "freq_shift"),
        (UNET, {"flip_sin_to_cos": False}, "flip_sin_to_cos"),
        (UNET, {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        (UNET, {"time_cond_proj_dim": 256}, "time_cond_proj_dim"),
        (TEXT, {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (TEXT, {"num_attention_heads": 12}, "num_attention_heads"),
    ],
)
def test_what_would_give_another_picture_is_refused(opened, file, changes, words):
    with pytest.raises(WeightsError) as caught:
        opened(file, changes)
    assert words in str(caught.value) and file.rpartition("/")[2] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_file_that_was_read_is_named(made, tmp_path):
    """Of a folder of the UNet alone its own config.json."""
    shutil.copytree(made["sd15"] / "unet", tmp_path / "alone")
    config = tmp_path / "alone/config.json"
    config.write_text(json.dumps({"freq_shift": 1}))
    with pytest.raises(WeightsError, match=f"^{re.escape(str(config))}: freq_shift"):
        open_checkpoint(tmp_path / "alone", preset=miniature("sd15"))


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        (SCHEDULER, {"prediction_type": "epsilon"}),
        (SCHEDULER, {"sigma_max": 80.0}),
        (SCHEDULER, {"timestep_type": "discrete"}),
        (UNET, {"num_attention_heads": [5, 10]}),
        ("image_encoder/config.json", {"hidden_act": "quick_gelu"}),
        ("feature_extractor/preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}),
    ],
)
def test_what_a_video_network_is_refused_for(opened, file, changes):
    with pytest.raises(WeightsError, match=next(iter(changes))):
        opened(file, changes, "svd")


def test_the_autoencoders_scale_is_used_and_survives_conversion(opened, tmp_path):
    checkpoint = opened(VAE, {"scaling_factor": 0.13025})
    assert checkpoint.preset.autoencoder.scaling_factor == 0.13025
    convert_checkpoint(checkpoint, "sgm", tmp_path / "one.safetensors")
    assert file_metadata(tmp_path / "one.safetensors")["im3d.scaling_factor"] == "0.13025"
    single = open_checkpoint(tmp_path / "one.safetensors", preset=miniature("sd15"))
    assert single.preset.autoencoder.scaling_factor == 0.13025
    convert_checkpoint(single, "diffusers", tmp_path / "two")
    assert json.loads((tmp_path / "two" / VAE).read_text())["scaling_factor"] == 0.13025


def test_v_prediction_is_used(made, tmp_path):
    shutil.copytree(made["sd15"], tmp_path / "sd")
    (tmp_path / "sd/im3d.json").unlink()
    (tmp_path / "sd" / SCHEDULER).write_text(json.dumps(PNDM | {"prediction_type": "v_prediction"}))
    assert open_checkpoint(tmp_path / "sd", preset=miniature("sd15")).preset.prediction == "v"


def test_fields_without_effect_and_unknown_ones(opened):
    assert opened(SCHEDULER, {"algorithm_type": "dpmsolver++", "timestep_spacing": "trailing"}).remark == ""
    assert (
        opened(UNET, {"upcast_attention": True, "dropout": 0.0, "a_new_field": None, "_name_or_path": "x"}).remark == ""
    )
    remark = opened(UNET, {"a_new_field": 3}).remark
    assert "not known and have no effect: unet.a_new_field" in remark and "\n" not in remark


def test_a_single_files_header_tells_the_prediction(tmp_path):
    file = write_miniature(tmp_path / "sd15.safetensors", miniature("sd15"))
    tensors = list_tensors([file])

    def with_prediction(value):
        items = [(n, t.dtype, t.shape, lambda t=t: read_tensor(t)) for n, t in tensors.items()]
        write_tensors(tmp_path / "said.safetensors", items, {"modelspec.prediction_type": value})
        return open_checkpoint(tmp_path / "said.safetensors", preset=miniature("sd15"))

    assert with_prediction("v").preset.prediction == "v"
    assert with_prediction("epsilon").preset.prediction == "epsilon"
    with pytest.raises(WeightsError, match="modelspec.prediction_type is 'flow'"):
        with_prediction("flow")
