"""Foreign checkpoints: which family and layout a path holds, and its networks, tensor by tensor to where they belong.

A diffusers folder has one folder a network; an sgm file holds all networks behind prefixes. Every tensor is used once,
or is named as one that the family's own code does not use either; anything else is an error that lists it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import fnmatch
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from im3d_jax.errors import WeightsError
from im3d_jax.weights.folder_configs import apply_configs, with_scaling_factor
from im3d_jax.weights.names.networks import (
    CheckpointLayout,
    autoencoder_shapes,
    autoencoder_table,
    conditioner_number,
    unet_shapes,
    unet_table,
)
from im3d_jax.weights.names.table import Entry, Table, check_complete
from im3d_jax.weights.presets import PRESETS, NormEps, Preset, with_norm_eps
from im3d_jax.weights.tensor_files import (
    DTYPES,
    READERS,
    StoredTensor,
    arranged,
    check_dtypes,
    file_metadata,
    list_tensors,
    network_files,
    read_json_if_there,
    read_tensor,
    write_tensors,
)
from im3d_jax.weights.trees import flatten, unflatten


RECORD = "im3d.json"
ASIDE = "diffusers_only."  # in front of tensors that only the diffusers layout has, in sgm files of ours
FOLDERS = ("unet", "vae", "image_encoder", "text_encoder")
# What the authors' single files leave open.
_REMARKS = {
    "sd21": "{} is read as Stable Diffusion 2.1 (768x768), whose tensors are those of 2.1-base; if it is 2.1-base: "
    "im3d convert --family=sd21_base --to=diffusers first",
    "svd_xt": "{} does not say how many views it draws, 25 are assumed; for another number: im3d convert --frames=N "
    "--to=diffusers first",
}
# Buffers of samplers, schedules and averaged copies, which are no parameters of the networks.
_BUFFERS = (
    "denoiser.*", "betas", "alphas_cumprod*", "sqrt_*", "log_one_minus_alphas_cumprod", "posterior_*", "lvlb_weights",
    "logvar", "scale_factor", "model_ema.*",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A path that holds a family's networks.

    Attributes:
        path: Folder (diffusers, or shards of an sgm file) or file (sgm, or a single diffusers network).
        layout: Of the names.
        preset: With the group norms' eps, the autoencoder's kind, the frames and the prediction that these files call
            for.
        networks: {folder of `FOLDERS`: {stored name: tensor}}; the names of an sgm file stand under the network they
            belong to, unchanged.
        aside: Tensors that the family's code does not use, by stored name.
        record: What `conversion.convert` noted: family, norm_eps, num_frames, prediction, and names that are to come
            back.
        remark: A line for the user where the files leave a choice, on what was chosen; else empty.
    """

    path: pathlib.Path
    layout: CheckpointLayout
    preset: Preset
    networks: dict[str, dict[str, StoredTensor]]
    aside: dict[str, StoredTensor]
    record: dict[str, str]
    remark: str = ""

    @property
    def encoder(self) -> tuple[pathlib.Path, str]:
        """Path and prefix of the image or text encoder, as `encoders.load_encoder` takes them."""
        if self.layout == "diffusers":
            return self.path / encoder_folder(self.preset), ""
        return self.path, encoder_prefix(self.preset, self.networks[encoder_folder(self.preset)])


def encoder_folder(preset: Preset) -> str:
    """Folder of a family's encoder in the diffusers layout."""
    return "image_encoder" if preset.image_encoder else "text_encoder"


def encoder_prefix(preset: Preset, names: Iterable[str]) -> str:
    """Prefix of a family's encoder in sgm files."""
    if preset.image_encoder or any(name.startswith("conditioner.") for name in names):
        return "conditioner.embedders.0."
    return "cond_stage_model."


def open_checkpoint(path: str | pathlib.Path, family: str | None = None, *, preset: Preset | None = None) -> Checkpoint:
    """Finds out what a path holds; reads headers only.

    Args:
        path: A diffusers folder, an sgm file, a folder with one such file (or with both of SV3D's: `sv3d_u` is taken),
            or a diffusers UNet's own file or folder.
        family: Name of a preset, where it should not be told from the tensors' shapes.
        preset: Sizes of a family of one's own, in place of `family`.

    Raises:
        WeightsError: One line: nothing there, a pickle, damage, an unknown family, tensors that do not belong.
    """
    given = pathlib.Path(path)
    path = one_of_sv3d(given)
    if path != given:
        other = given / "sv3d_p.safetensors"
        remark = f"{given} holds both SV3D networks: {path.name} is used; pass {other} for the other"
        return dataclasses.replace(open_checkpoint(path, family, preset=preset), remark=remark)
    if family is not None and family not in PRESETS:
        raise WeightsError(f"unknown family {family!r}: expected one of {', '.join(PRESETS)}")
    families = tuple(PRESETS) if family is None and preset is None else None
    folders = [name for name in FOLDERS if (path / name).is_dir()]
    if folders:
        stored = {name: list_tensors(network_files(path / name)) for name in folders}
        config_file = path / "unet" / "config.json"
        config = read_json_if_there(config_file)
        record = read_json_if_there(path / RECORD)
        _check_record(record, str(path / RECORD), families)
    else:
        files = network_files(path) if path.is_dir() else [path]
        tensors, file = list_tensors(files), files[0]
        if any(name.startswith("model.diffusion_model.") for name in tensors):
            fields = file_metadata(file).items()
            record = {key.removeprefix("im3d."): value for key, value in fields if key.startswith("im3d.")}
            _check_record(record, f"the header of {file}", families)
            chosen = preset or _preset(family or record.get("family"), tensors, {}, path)
            predicted = record.get("prediction") or _declared_prediction(file_metadata(file), file)
            chosen = _with_frames(_with_prediction(chosen, predicted), record.get("num_frames"))
            if "scaling_factor" in record:
                chosen = with_scaling_factor(chosen, record["scaling_factor"], f"the header of {file}")
            opened = _open_sgm(file if len(files) == 1 else path, tensors, record, chosen)
            told = family or preset or record.get("family")
            return opened if told else dataclasses.replace(opened, remark=_REMARKS.get(chosen.name, "").format(file))
        # A single network's folder has its configuration beside the tensors.
        stored, record = {"unet": tensors}, {}
        config_file = path / "config.json"
        config = read_json_if_there(config_file)
    if "unet" not in stored:
        raise WeightsError(f"{path} has no unet folder, only {', '.join(folders)}: give the model's whole folder")
    chosen = preset or _preset(family or record.get("family"), stored["unet"], config, path)
    chosen = with_norm_eps(chosen, record.get("norm_eps") or chosen.norm_eps)
    chosen = _with_frames(chosen, config.get("num_frames", record.get("num_frames")))
    scheduler = read_json_if_there(path / "scheduler" / "scheduler_config.json")
    chosen = _with_prediction(chosen, record.get("prediction", scheduler.get("prediction_type")))
    if "vae" in stored:
        autoencoder = dataclasses.replace(
            chosen.autoencoder,
            temporal_decoder="decoder.time_conv_out.weight" in stored["vae"],
            post_quant_conv="post_quant_conv.weight" in stored["vae"],
        )
        chosen = dataclasses.replace(chosen, autoencoder=autoencoder)
    if "scaling_factor" in record:
        chosen = with_scaling_factor(chosen, record["scaling_factor"], str(path / RECORD))
    chosen, remark = apply_configs(path, chosen, config, config_file)
    return Checkpoint(path, "diffusers", chosen, stored, {}, record, f"{path}: {remark}" if remark else "")


def one_of_sv3d(path: pathlib.Path) -> pathlib.Path:
    """`sv3d_u`'s file in a folder that holds SV3D as its authors publish it, two networks in two files; else the path.

    SV3D_u needs to know nothing of the cameras, so it is the one that serves any picture.
    """
    files = sorted(file.name for file in path.glob("sv3d_?.safetensors")) if path.is_dir() else []
    return path / "sv3d_u.safetensors" if files == ["sv3d_p.safetensors", "sv3d_u.safetensors"] else path


def _with_frames(preset: Preset, frames: object) -> Preset:
    """The preset with the length that a file gives; SVD fine-tuned on orbits has other lengths than SVD's videos.

    SV3D's networks draw the orbits of their own length only.
    """
    if isinstance(frames, str) and frames.isdecimal():
        frames = int(frames)
    if not isinstance(frames, int) or frames < 2:
        return preset
    if preset.unet.temporal != "blended" or preset.name.startswith("sv3d"):
        return preset
    return dataclasses.replace(preset, frames=frames)


def with_frames(checkpoint: Checkpoint, frames: int) -> Checkpoint:
    """The checkpoint of an SVD that draws so many views.

    Raises:
        WeightsError: The family's length is not free.
    """
    preset = _with_frames(checkpoint.preset, frames)
    if preset.frames != frames:
        raise WeightsError(
            f"{preset.name} has a fixed number of frames ({preset.frames}): --frames applies to svd and svd_xt only"
        )
    return dataclasses.replace(checkpoint, preset=preset)


def _with_prediction(preset: Preset, prediction: object) -> Preset:
    """The preset with what a picture network's record or scheduler says that it predicts."""
    known = {"epsilon": "epsilon", "v_prediction": "v", "v": "v"}
    if preset.unet.temporal != "none" or not isinstance(prediction, str) or prediction not in known:
        return preset
    return dataclasses.replace(preset, prediction=known[prediction])


def _declared_prediction(metadata: dict[str, str], file: pathlib.Path) -> str | None:
    """What a single file's header says that its network predicts, by the ModelSpec of Stability AI.

    Raises:
        WeightsError: Something that is not supported.
    """
    said = metadata.get("modelspec.prediction_type")
    if said not in (None, "", "epsilon", "v", "v_prediction"):
        raise WeightsError(f"{file}: modelspec.prediction_type is {said[:40]!r}; expected 'epsilon' or 'v'")
    return said or None


def _open_sgm(path: pathlib.Path, tensors: dict[str, StoredTensor], record: dict, preset: Preset) -> Checkpoint:
    # A file of the authors' has no record; one of `conversion.convert` computes what its source computed.
    preset = with_norm_eps(preset, record.get("norm_eps") or "sgm")
    temporal = "first_stage_model.decoder.conv_out.time_mix_conv.weight" in tensors
    preset = dataclasses.replace(preset, autoencoder=dataclasses.replace(preset.autoencoder, temporal_decoder=temporal))
    encoder = encoder_prefix(preset, tensors)
    unused = [*_BUFFERS, ASIDE + "*"]
    if preset.image_encoder:
        other = f"conditioner.embedders.{conditioner_number(preset)}.encoder."
        unused += [other + "decoder.*", other + "post_quant_conv.*", "first_stage_model.encoder.*"]
        unused += ["first_stage_model.quant_conv.*", "first_stage_model.post_quant_conv.*"]
        places = {
            "unet": "model.diffusion_model.",
            encoder_folder(preset): encoder,
            "vae": ("first_stage_model.", other),
        }
    else:
        places = {"unet": "model.diffusion_model.", encoder_folder(preset): encoder, "vae": "first_stage_model."}
    networks: dict[str, dict[str, StoredTensor]] = {name: {} for name in places}
    aside, unknown = {}, []
    for name, tensor in tensors.items():
        home = next((network for network, prefix in places.items() if name.startswith(prefix)), None)
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in unused):
            aside[name] = tensor
        elif home is None:
            unknown.append(name)
        else:
            networks[home][name] = tensor
    if unknown:
        shown = ", ".join(sorted(unknown)[:12])
        raise WeightsError(f"{path} holds {len(unknown)} tensors that no {preset.name} checkpoint has: {shown}")
    return Checkpoint(path, "sgm", preset, {name: found for name, found in networks.items() if found}, aside, record)


def _preset(family: str | None, tensors: dict[str, StoredTensor], config: dict, path: pathlib.Path) -> Preset:
    """The preset of a name, or the one whose first convolution and conditions have the shapes found."""
    if family is not None:
        return PRESETS[family]

    def width(*names: str) -> int | None:
        shapes = [tensors[name].shape for name in names if name in tensors]
        return next((shape[1] for shape in shapes if len(shape) > 1), None)

    prefix = "model.diffusion_model."
    first = ("conv_in.weight", prefix + "input_blocks.0.0.weight")
    channels = width(*first)
    vector = width("add_embedding.linear_1.weight", prefix + "label_emb.0.0.weight")
    block = "transformer_blocks.0.attn2.to_k.weight"
    context = width(f"down_blocks.0.attentions.0.{block}", f"{prefix}input_blocks.1.1.{block}")
    fits = [
        name
        for name, preset in PRESETS.items()
        if (channels, vector or 0, (context,))
        == (preset.unet.in_channels, sum(preset.unet.vector_dims), preset.unet.context_dims)
    ]
    if not fits:
        if any("lora_" in name or ".lora." in name for name in tensors):
            raise WeightsError(
                f"{path} holds low-rank adapters (LoRA), which are no model alone: merge them into the model that they "
                "were trained on, and give that"
            )
        if not any(name in tensors for name in first):
            raise WeightsError(
                f"{path} holds no UNet ({len(tensors)} tensors, such as {', '.join(sorted(tensors)[:2])[:120]}): give "
                "a whole model's folder or file"
            )
        raise WeightsError(
            f"{path} belongs to no known family (UNet with {channels or 'no'} input channels, {vector or 0} features "
            f"of scalar conditions, contexts of {context}): expected one of {', '.join(PRESETS)}"
        )
    if "svd" in fits:
        # The weights cannot tell them apart, and the longer one takes any number of frames.
        return PRESETS["svd" if config.get("num_frames") == 14 else "svd_xt"]
    if "sd21" in fits:
        scheduler = read_json_if_there(path / "scheduler" / "scheduler_config.json")
        return PRESETS["sd21_base" if scheduler.get("prediction_type") == "epsilon" else "sd21"]
    return PRESETS[fits[0]]


def _check_record(record: dict, where: str, families: tuple[str, ...] | None) -> None:
    """Refuses what `conversion.convert` cannot have written: the record decides what is computed.

    Args:
        record: From a folder's file or a file's header.
        where: For messages.
        families: Names it may have; None where its name does not count.
    """
    fields = {"family": families, "norm_eps": get_args(NormEps), "prediction": ("v", "epsilon"), "encoder_prefix": None}
    for field, allowed in fields.items():
        value = record.get(field)
        if value is None or (isinstance(value, str) and (allowed is None or value in allowed)):
            continue
        found = repr(value[:40]) if isinstance(value, str) else f"of type {type(value).__name__}"
        expected = "text" if allowed is None else f"one of {', '.join(allowed)}"
        raise WeightsError(f"{where}: {field} is {found}, expected {expected}; convert the original weights again")
    frames = record.get("num_frames")
    if frames is not None and not (isinstance(frames, str) and re.fullmatch(r"[1-9]\d{0,3}", frames)):
        raise WeightsError(
            f"{where}: num_frames is {str(frames)[:40]!r}, expected a number as text, such as '21'; convert the "
            "original weights again"
        )


def network_table(checkpoint: Checkpoint, network: str) -> tuple[dict, Table]:
    """(shapes of our parameters, name table) of ``unet`` or ``vae``, checked against the tensors there are.

    Raises:
        WeightsError: The files lack the network, or its tensors are not those of the table, or of a dtype not read.
    """
    preset, found = checkpoint.preset, checkpoint.networks.get(network, {})
    if not found:
        raise WeightsError(
            f"{checkpoint.path} holds no {network}: expected {', '.join(checkpoint.networks)} and {network}"
        )
    if network == "unet":
        shapes = unet_shapes(preset.unet)
        table = unet_table(preset, shapes, checkpoint.layout)
    else:
        shapes = autoencoder_shapes(preset.autoencoder)
        table = autoencoder_table(preset, shapes, checkpoint.layout, found)
    check_complete(table, {name: tensor.shape for name, tensor in found.items()}, f"{checkpoint.path} ({network})")
    check_dtypes(found)
    return shapes, table


def load_network(
    checkpoint: Checkpoint,
    network: str,
    *,
    dtype: DTypeLike | Callable[[str], DTypeLike] | None = None,
    sharding: jax.sharding.Sharding | Callable[[dict], dict] | None = None,
) -> dict:
    """The parameters of ``unet`` or ``vae``, read, cast and put in place a few tensors at a time.

    Args:
        checkpoint: From `open_checkpoint`.
        network: ``unet`` or ``vae``.
        dtype: Of the result, or a function of our dotted name; the stored one by default.
        sharding: One `jax.sharding.Sharding` for all, or a function of the tree of shapes that returns a tree of them
            (``functools.partial(parallel.fsdp_sharding, mesh)``); the default device by default. Only the slices that
            this process holds are read.

    Raises:
        WeightsError: See `network_table`.
    """
    shapes, table = network_table(checkpoint, network)
    if sharding is None or isinstance(sharding, jax.sharding.Sharding):
        places = dict.fromkeys(table, sharding)
    else:
        places = flatten(sharding(shapes))
    stored = checkpoint.networks[network]
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        # Dtypes such as `jnp.bfloat16` are types, which can be called too.
        kind: Any = dtype if callable(dtype) and not isinstance(dtype, type) else lambda ours: dtype
        place = lambda ours: _place(stored[table[ours].name], table[ours], kind(ours), places.get(ours))  # noqa: E731
        flat = dict(zip(table, pool.map(place, table), strict=True))
    return unflatten(flat, shapes)


def _place(tensor: StoredTensor, entry: Entry, dtype, sharding) -> jax.Array:
    kind = np.dtype(dtype or DTYPES.get(tensor.dtype))
    order = entry.layout.order
    if sharding is None:
        return jnp.asarray(arranged(entry.layout.from_file(read_tensor(tensor)), kind))
    shape = tuple(entry.shape[order.index(axis)] for axis in range(len(order)))

    def piece(index: Any) -> np.ndarray:
        stored = tuple(index[axis] for axis in order) + (slice(None),) * entry.layout.ones
        return arranged(entry.layout.from_file(read_tensor(tensor, stored)), kind)

    return jax.make_array_from_callback(shape, sharding, piece)


def save_network(
    path: str | pathlib.Path,
    params: dict,
    table: Table,
    *,
    dtype: DTypeLike | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes parameters of ours under a table's names, one tensor at a time.

    Args:
        path: The safetensors file.
        params: Nested parameters.
        table: From `names.networks`.
        dtype: Of the file; the parameters' own by default.
        metadata: Free text fields of the header; ``format: pt`` is added, which PyTorch's readers ask for.
    """
    codes = {np.dtype(value): code for code, value in DTYPES.items()}
    flat = flatten(params)
    items = [
        (entry.name, codes[np.dtype(dtype or flat[ours].dtype)], entry.shape,
         lambda ours=ours, entry=entry: entry.layout.to_file(np.asarray(flat[ours]).astype(dtype or flat[ours].dtype)))
        for ours, entry in table.items()
    ]  # fmt: skip
    write_tensors(path, items, {"format": "pt", **(metadata or {})})
