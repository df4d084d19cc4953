"""Cases of weights: fields of diffusers' configurations, files that are none, archives that declare too much."""

from __future__ import annotations

import atexit
import functools
import io
import json
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from im3d_jax.archives import read_arrays
from im3d_jax.weights.checkpoints import open_checkpoint
from im3d_jax.weights.conversion import convert_checkpoint
from im3d_jax.weights.miniature import miniature, write_miniature
from tests.robustness.case import Case, im3d
from tests.weights.test_folder_configs import EULER, PNDM, SCHEDULER, TEXT, UNET, VAE


@functools.cache
def made() -> pathlib.Path:
    """Folders `sd15` and `svd` in diffusers' layout, of small networks; made once."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="im3d-tests-robustness-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for family, scheduler in (("sd15", PNDM), ("svd", EULER)):
        file = write_miniature(place / f"{family}.safetensors", miniature(family))
        convert_checkpoint(open_checkpoint(file, preset=miniature(family)), "diffusers", place / family)
        (place / family / "scheduler").mkdir(exist_ok=True)
        (place / family / SCHEDULER).write_text(json.dumps(scheduler))
    return place


def opened(family: str, file: str, changes: dict[str, Any] | str, check: Callable[[Any], object]) -> Callable:
    """Opens a folder whose JSON file has other fields, or another text."""

    def act(folder: pathlib.Path) -> None:
        shutil.copytree(made() / family, folder / family)
        target = folder / family / file
        target.parent.mkdir(exist_ok=True)
        before = json.loads(target.read_text()) if target.is_file() else {}
        target.write_text(changes if isinstance(changes, str) else json.dumps(before | changes))
        check(open_checkpoint(folder / family, preset=miniature(family)))

    return act


def refuse(checkpoint: Any) -> None:
    raise AssertionError("opened")


def refused_fields() -> Iterator[Case]:
    for family, file, fields in (
        (
            "sd15",
            SCHEDULER,
            {
                "beta_schedule": ["linear", "squaredcos_cap_v2", "exp", 3, None],
                "beta_start": [1e-4, "x", None, True],
                "beta_end": [0.02, 10**400],
                "prediction_type": ["sample", "flow_prediction", "x0"],
                "rescale_betas_zero_snr": [True, 1],
                "num_train_timesteps": [50, "1000"],
                "trained_betas": [[0.1]],
                "clip_sample": [True],
                "thresholding": [True],
                "use_flow_sigmas": [True],
                "_class_name": ["LCMScheduler", "FlowMatchEulerDiscreteScheduler", "TCDScheduler"],
            },
        ),
        (
            "sd15",
            VAE,
            {
                "scaling_factor": [0, -1, "x", True, [0.18], float("nan"), 1e30],
                "shift_factor": [0.1159],
                "act_fn": ["gelu"],
                "latents_mean": [[0.1] * 4],
                "latents_std": [[1.0] * 4],
                "norm_num_groups": [7],
                "mid_block_add_attention": [False],
            },
        ),
        (
            "sd15",
            UNET,
            {
                "act_fn": ["gelu"],
                "norm_eps": [1e-6],
                "freq_shift": [1],
                "flip_sin_to_cos": [False],
                "resnet_time_scale_shift": ["scale_shift"],
                "attention_head_dim": [7, [1, 2, 3]],
                "only_cross_attention": [True],
                "class_embed_type": ["timestep"],
                "addition_embed_type": ["text_time"],
                "center_input_sample": [True],
                "dual_cross_attention": [True],
                "time_embedding_type": ["fourier"],
            },
        ),
        ("sd15", TEXT, {"hidden_act": ["gelu"], "num_attention_heads": [3], "layer_norm_eps": [1e-3]}),
        (
            "svd",
            SCHEDULER,
            {
                "prediction_type": ["epsilon", "sample"],
                "sigma_max": [80.0],
                "sigma_min": [0.02],
                "sigma_data": [0.5],
                "timestep_type": ["discrete"],
            },
        ),
    ):
        for field, values in fields.items():
            for value in values:
                words = "another sampler" if field == "_class_name" else field
                name = f"{family}: {file.partition('/')[0]}'s {field} is {str(value)[:30]}"
                yield Case(1, name, opened(family, file, {field: value}, refuse), words)


def used_fields() -> Iterator[Case]:
    for factor in (0.13025, 0.18215, 1.0, 1):

        def check(checkpoint: Any, factor: float = factor) -> None:
            assert checkpoint.preset.autoencoder.scaling_factor == factor

        yield Case(1, f"sd15: scaling_factor {factor}", opened("sd15", VAE, {"scaling_factor": factor}, check))

    def named(checkpoint: Any) -> None:
        assert "unet.my_field" in checkpoint.remark

    yield Case(1, "sd15: a field that is not known", opened("sd15", UNET, {"my_field": 3}, named))


def texts() -> Iterator[Case]:
    for file in (SCHEDULER, VAE, UNET, "model_index.json"):
        for name, text in (("empty", ""), ("a list", "[]"), ("cut", '{"a": '), ("nested", "[" * 100_000)):
            refusal = None if file == "model_index.json" else file.rpartition("/")[2]
            check = (lambda checkpoint: None) if file == "model_index.json" else refuse
            yield Case(6, f"sd15: {file} is {name}", opened("sd15", file, text, check), refusal)


def _file(content: bytes, name: str = "model.safetensors") -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        (folder / name).write_bytes(content)
        im3d("doctor", f"--model={folder / name}")

    return act


def _safetensors(header: dict[str, Any], body: bytes = b"", size: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def files() -> Iterator[Case]:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    lora = {
        f"lora_unet_{place}.lora_down.weight": one | {"data_offsets": [8 * place, 8 * place + 8]} for place in range(3)
    }
    for name, content, words in (
        ("empty", b"", "model.safetensors"),
        ("a text", b"hello", "model.safetensors"),
        ("a header of 1e18 bytes", _safetensors({}, size=10**18), "model.safetensors"),
        (
            "a tensor of 1e18 bytes",
            _safetensors({"x": {"dtype": "F32", "shape": [10**17], "data_offsets": [0, 4 * 10**17]}}),
            "model.safetensors",
        ),
        ("a negative offset", _safetensors({"x": one | {"data_offsets": [-8, 0]}}, bytes(8)), "model.safetensors"),
        ("a LoRA", _safetensors(lora, bytes(24)), "LoRA|low-rank"),
        ("no network", _safetensors({"x": one}, bytes(8)), "model.safetensors"),
        ("a pickle", b"PK\3\4" + bytes(60), "model.safetensors"),
    ):
        yield Case(8 if "1e18" in name else 10, f"--model: {name}", _file(content), words)
    for name in ("model.ckpt", "model.pth", "model.bin", "model.gguf"):
        yield Case(10, f"--model: {name}", _file(b"PK\3\4" + bytes(60), name), name)


def _npz(header: bytes, body: bytes = b"", compression: int = zipfile.ZIP_STORED) -> Callable[[pathlib.Path], object]:
    def act(folder: pathlib.Path) -> object:
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w", compression) as archive:
            text = header + b" " * (-(len(header) + 11) % 64) + b"\n"
            archive.writestr("x.npy", b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + body)
        (folder / "a.npz").write_bytes(raw.getvalue())
        try:
            return read_arrays(folder / "a.npz", ["x"])
        # Its callers name the file.
        except ValueError as error:
            from im3d_jax.errors import InputError

            raise InputError(str(error)) from None

    return act


def archives() -> Iterator[Case]:
    for name, header, words in (
        (
            "1e12 numbers",
            b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}",
            "needs 4000000000000 bytes",
        ),
        ("2^64 numbers", b"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "needs"),
        ("-1 numbers", b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "needs"),
        ("objects", b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "needs"),
        ("no type", b"{'descr': 'zz', 'fortran_order': False, 'shape': (1,)}", "descr|type"),
        ("no dictionary", b"[1, 2", ""),
    ):
        yield Case(8, f".npz of {name}", _npz(header, bytes(4)), words)
    yield Case(
        8,
        ".npz of zeros that are packed",
        _npz(b"{'descr': '<f4', 'fortran_order': False, 'shape': (5000000,)}", bytes(20_000_000), zipfile.ZIP_BZIP2),
        "declares",
    )

    def right(folder: pathlib.Path) -> None:
        np.savez(folder / "a.npz", x=np.arange(3.0))
        np.testing.assert_array_equal(read_arrays(folder / "a.npz", ["x"])["x"], [0, 1, 2])

    yield Case(8, ".npz", right)


def cases() -> Iterator[Case]:
    """All of this file."""
    for part in (refused_fields, used_fields, texts, files, archives):
        yield from part()
