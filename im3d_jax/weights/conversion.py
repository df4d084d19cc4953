"""One layout of a checkpoint to the other, in the stored dtypes, one tensor at a time.

What only one layout has (encoders and decoders that the family's own code does not use, buffers) is kept beside, so
that nothing is lost on the way back: in the folder `sgm_only` of a diffusers folder, or behind the prefix
``diffusers_only.`` in an sgm file.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np

from im3d_jax.atomic import replacing_folder
from im3d_jax.errors import WeightsError
from im3d_jax.models.clip import CLIPTextConfig, CLIPVisionConfig
from im3d_jax.models.kl_autoencoder import KLAutoencoderConfig
from im3d_jax.models.t5 import T5Config
from im3d_jax.weights.checkpoints import (
    ASIDE,
    RECORD,
    Checkpoint,
    encoder_folder,
    encoder_prefix,
    network_table,
)
from im3d_jax.weights.encoders import detect_layout, encoder_table
from im3d_jax.weights.names.networks import CheckpointLayout, autoencoder_table, unet_table
from im3d_jax.weights.names.table import Table, check_complete
from im3d_jax.weights.pipeline_files import has_pipeline, pipeline_files
from im3d_jax.weights.presets import Preset
from im3d_jax.weights.tensor_files import (
    StoredTensor,
    check_dtypes,
    list_tensors,
    network_files,
    read_tensor,
    write_tensors,
)


SGM_ONLY = "sgm_only"
OLD_ATTENTION = "decoder.mid_block.attentions.0.proj_attn.weight"  # a name of diffusers' first years
FILES = {"unet": "diffusion_pytorch_model.safetensors", "vae": "diffusion_pytorch_model.safetensors"}


def convert_checkpoint(checkpoint: Checkpoint, to: CheckpointLayout, destination: str | pathlib.Path) -> dict[str, int]:
    """Writes a checkpoint in the other layout; what is not finished, for whatever reason, leaves nothing behind.

    Args:
        checkpoint: What to convert.
        to: ``diffusers`` (a folder is written) or ``sgm`` (a file).
        destination: Must not exist.

    Returns:
        {network: tensors written}; ``aside`` counts what only the source's layout has.

    Raises:
        WeightsError: Tensors that do not fit or have a dtype that is not read, a family without the layout, or a
            destination that exists.
    """
    destination = pathlib.Path(destination)
    if to == checkpoint.layout:
        raise WeightsError(f"{checkpoint.path} has the {to} layout already: nothing to convert")
    if os.path.lexists(destination):
        raise WeightsError(f"{destination} exists: give a new {'folder' if to == 'diffusers' else 'file'}")
    if checkpoint.preset.unet.temporal == "residual":
        raise WeightsError(f"{checkpoint.preset.name} has no sgm layout: nothing to convert")
    networks, left = {}, {}
    for network, stored in checkpoint.networks.items():
        source, target, unused = _both(checkpoint, network, to)
        networks[network] = (stored, source, target)
        left[network] = {name: stored[name] for name in unused}
        check_dtypes(stored)
    check_dtypes(checkpoint.aside)
    count = sum(map(len, left.values())) + len(checkpoint.aside)
    if to == "diffusers":
        aside = dict(checkpoint.aside)
        for tensors in left.values():
            aside |= tensors
        return {**_write_folder(checkpoint, destination, networks, aside), "aside": count}
    if (checkpoint.path / SGM_ONLY).is_dir():
        spare = list_tensors(network_files(checkpoint.path / SGM_ONLY))
        check_dtypes(spare)
        networks[SGM_ONLY] = (spare, None, None)
    return {**_write_file(checkpoint, destination, networks, left), "aside": count}


def _both(checkpoint: Checkpoint, network: str, to: CheckpointLayout) -> tuple[Table, Table, list[str]]:
    """(our parameters in the source, in the target, names of the source that neither uses)."""
    preset, stored = checkpoint.preset, checkpoint.networks[network]
    if network in ("unet", "vae"):
        shapes, table = network_table(checkpoint, network)
        if network == "unet":
            return table, unet_table(preset, shapes, to), []
        names = [OLD_ATTENTION] if checkpoint.record.get("attention_names") == "old" else []
        return table, autoencoder_table(preset, shapes, to, names), []
    config = _encoder(preset)
    layout, prefix = detect_layout(stored, config)
    source = encoder_table(config, layout, prefix).entries
    if to == "diffusers":
        inner = "vision_model." if isinstance(config, CLIPVisionConfig) else "text_model."
        target = encoder_table(config, "transformers", inner).entries
    else:
        # Single files of Stable Diffusion 1.x hold the encoder under transformers' names, the others under OpenCLIP's.
        old = preset.name == "sd15"
        inner = "open_clip.model." if preset.image_encoder else "transformer.text_model." if old else "model."
        prefix = checkpoint.record.get("encoder_prefix", encoder_prefix(preset, ()) + inner)
        target = encoder_table(config, "transformers" if old else "open_clip", prefix).entries
    # What is left over is kept beside.
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    check_complete(source, shapes, f"{checkpoint.path} ({network})", unused=("*",))
    return source, target, sorted(stored.keys() - {entry.name for entry in source.values()})


def _encoder(preset: Preset) -> CLIPVisionConfig | CLIPTextConfig | T5Config:
    return preset.image_encoder or preset.text_encoders[0]


def _items(stored: dict[str, StoredTensor], source: Table, target: Table) -> list[tuple]:
    """The target's tensors for `write_tensors`."""
    by_name: dict[str, list[str]] = {}
    for ours, entry in target.items():
        by_name.setdefault(entry.name, []).append(ours)
    items = []
    for name, members in by_name.items():
        members.sort(key=lambda ours: target[ours].part)
        dtypes = {stored[source[ours].name].dtype for ours in members}
        if len(dtypes) > 1:
            raise WeightsError(f"the tensors that make {name} have several dtypes: {', '.join(sorted(dtypes))}")
        items.append((name, dtypes.pop(), target[members[0]].shape, _joined(stored, source, target, members)))
    return items


def _joined(
    tensors: dict[str, StoredTensor], source: Table, target: Table, members: list[str]
) -> Callable[[], np.ndarray]:
    def values() -> np.ndarray:
        arrays = []
        for ours in members:
            entry = source[ours]
            array = entry.layout.from_file(read_tensor(tensors[entry.name], entry.index))
            arrays.append(target[ours].layout.to_file(array))
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    return values


def _copies(tensors: dict[str, StoredTensor]) -> list[tuple]:
    """Tensors as they are."""
    return [(name, t.dtype, t.shape, functools.partial(read_tensor, t)) for name, t in tensors.items()]


def _write_folder(checkpoint: Checkpoint, folder: pathlib.Path, networks: dict, aside: dict) -> dict[str, int]:
    """A diffusers folder, under its name only when it is whole: without its record it would be another model."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as partial:
        partial.mkdir()
        counts = _fill_folder(checkpoint, partial, networks, aside)
        if os.path.lexists(folder):  # since the check at the start
            raise WeightsError(f"{folder} exists: give a new folder")
    return counts


def _fill_folder(checkpoint: Checkpoint, folder: pathlib.Path, networks: dict, aside: dict) -> dict[str, int]:
    """The networks, what only the source's layout has, the configs and the record; {network: tensors}."""
    counts = {}
    for network, (stored, source, target) in networks.items():
        (folder / network).mkdir()
        prefix = f"{ASIDE}{network}."
        kept = {name.removeprefix(prefix): aside.pop(name) for name in list(aside) if name.startswith(prefix)}
        items = [*_items(stored, source, target), *_copies(kept)]
        write_tensors(folder / network / FILES.get(network, "model.safetensors"), items, {"format": "pt"})
        counts[network] = len(items)
    if aside:
        (folder / SGM_ONLY).mkdir()
        write_tensors(folder / SGM_ONLY / "model.safetensors", _copies(aside), {"format": "pt"})
    preset = checkpoint.preset
    for network, config in diffusers_configs(preset).items():
        if network in networks:
            (folder / network / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if has_pipeline(preset):
        for path, config in pipeline_files(preset).items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(json.dumps(config, indent=1) + "\n")
    record = record_of(preset)
    encoder = encoder_folder(preset)
    if encoder in networks:
        record["encoder_prefix"] = detect_layout(checkpoint.networks[encoder], _encoder(preset))[1]
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return counts


def _write_file(checkpoint: Checkpoint, file: pathlib.Path, networks: dict, aside: dict) -> dict[str, int]:
    """One sgm file; its header is the record."""
    items, counts = [], {}
    for network, (stored, source, target) in networks.items():
        made = _copies(stored) if source is None else _items(stored, source, target)
        items += made
        counts[network] = len(made)
    for network, stored in aside.items():
        items += _copies({f"{ASIDE}{network}.{name}": tensor for name, tensor in stored.items()})
    preset = checkpoint.preset
    metadata = {"format": "pt", "im3d.family": preset.name}
    metadata |= {f"im3d.{field}": value for field, value in _computed(preset).items()}
    if OLD_ATTENTION in checkpoint.networks.get("vae", ()):
        metadata["im3d.attention_names"] = "old"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(file, items, metadata)
    return counts


def record_of(preset: Preset) -> dict[str, str]:
    """What `im3d.json` of a folder says: the family, and what the files' layout leaves open."""
    return {"family": preset.name, **_computed(preset)}


def _computed(preset: Preset) -> dict[str, str]:
    """What the record says beside the family, because the other layout would not: it decides what is computed."""
    scale, usual = preset.autoencoder.scaling_factor, KLAutoencoderConfig().scaling_factor
    computed = {} if scale == usual else {"scaling_factor": repr(scale)}
    if preset.unet.temporal == "none":
        return {"norm_eps": preset.norm_eps, "prediction": preset.prediction, **computed}
    return {"norm_eps": preset.norm_eps, "num_frames": str(preset.frames), **computed}


def diffusers_configs(preset: Preset) -> dict[str, dict]:
    """The config.json of the UNet and the autoencoder, as far as diffusers needs them to build the same networks."""
    unet, vae = preset.unet, preset.autoencoder
    video = unet.temporal == "blended"
    suffix = "SpatioTemporal" if video else "2D"
    cross = ["CrossAttn" if attends else "" for attends in unet.attention]
    config = {
        "_class_name": "UNetSpatioTemporalConditionModel" if video else "UNet2DConditionModel",
        "in_channels": unet.in_channels,
        "out_channels": unet.out_channels,
        "block_out_channels": list(unet.channels),
        "layers_per_block": unet.layers_per_block[0],
        "cross_attention_dim": unet.context_dims[0],
        "down_block_types": [f"{kind}DownBlock{suffix}" for kind in cross],
        "up_block_types": [f"{kind}UpBlock{suffix}" for kind in reversed(cross)],
    }
    if video:
        # One width for all scalars: SV3D_p's wider angles have no field there.
        config |= {
            "num_attention_heads": list(unet.heads),
            "addition_time_embed_dim": unet.vector_dims[0],
            "projection_class_embeddings_input_dim": sum(unet.vector_dims),
            "num_frames": preset.frames,
        }
    else:
        # diffusers' field of this name holds the number of heads.
        config |= {"attention_head_dim": list(unet.heads), "use_linear_projection": not preset.pointwise_projections}
    levels = len(vae.channels)
    autoencoder = {
        "_class_name": "AutoencoderKLTemporalDecoder" if vae.temporal_decoder else "AutoencoderKL",
        "block_out_channels": list(vae.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "latent_channels": vae.latent_channels,
        "layers_per_block": vae.layers_per_block,
        "scaling_factor": vae.scaling_factor,
    }
    if not vae.temporal_decoder:
        autoencoder |= {"up_block_types": ["UpDecoderBlock2D"] * levels, "use_post_quant_conv": vae.post_quant_conv}
    return {"unet": config, "vae": autoencoder}
