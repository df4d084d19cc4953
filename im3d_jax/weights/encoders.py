"""Text and image encoders from foreign files: name tables, and reading that uses every tensor exactly once.

A table says for each of our parameters which stored tensor, or which part of one, it is. Two layouts are known:
``transformers`` (the text_encoder and image_encoder folders of diffusers models, and CLIP and T5 of their own) and
``open_clip`` (OpenCLIP's files, and the encoders inside Stability's single-file checkpoints). Layout and prefix
are told from the stored names.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from im3d_jax.errors import WeightsError
from im3d_jax.models.clip import CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig
from im3d_jax.models.t5 import T5Config, T5Encoder
from im3d_jax.weights.names.table import KERNELS, Entry, Layout, Table, check_complete
from im3d_jax.weights.tensor_files import (
    READERS,
    StoredTensor,
    arranged,
    check_dtypes,
    list_tensors,
    network_files,
    read_tensor,
)
from im3d_jax.weights.trees import flatten, unflatten


EncoderConfig = CLIPTextConfig | CLIPVisionConfig | T5Config
EncoderLayout = Literal["transformers", "open_clip"]


@dataclasses.dataclass(frozen=True)
class EncoderTable:
    """Names of one encoder in one layout.

    Attributes:
        entries: {our dotted name: entry}; queries, keys and values may share a tensor.
        unused: Patterns (of fnmatch) of tensors that belong to other networks or repeat others; `entries` come first.
    """

    entries: Table
    unused: tuple[str, ...] = ()


def encoder_network(config: EncoderConfig, dtype: DTypeLike = jnp.float32) -> CLIPText | CLIPVision | T5Encoder:
    """The linen module of a configuration."""
    if isinstance(config, CLIPVisionConfig):
        return CLIPVision(config, dtype)
    return CLIPText(config, dtype) if isinstance(config, CLIPTextConfig) else T5Encoder(config, dtype)


@functools.lru_cache(maxsize=16)
def encoder_shapes(config: EncoderConfig) -> dict:
    """Nested `jax.ShapeDtypeStruct`s of an encoder's parameters, without computing anything."""
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    if isinstance(config, CLIPVisionConfig):
        inputs = (jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32),)
    elif isinstance(config, CLIPTextConfig):
        inputs = (tokens,)
    else:
        inputs = (tokens, jax.ShapeDtypeStruct((1, 2), jnp.bool_))
    return jax.eval_shape(encoder_network(config).init, jax.random.key(0), *inputs)["params"]


def detect_layout(names: Iterable[str], config: EncoderConfig) -> tuple[EncoderLayout, str]:
    """Layout and prefix, told by where the encoder's first embedding stands.

    Args:
        names: Stored names.
        config: Says which kind of encoder is wanted.

    Returns:
        The layout and what stands before every name of it: for instance ``text_model.`` or
        ``conditioner.embedders.0.open_clip.model.``.

    Raises:
        WeightsError: No such encoder, or more than one.
    """
    if isinstance(config, CLIPVisionConfig):
        kind, anchors = "CLIP image encoder", ("embeddings.class_embedding", "visual.class_embedding")
    elif isinstance(config, CLIPTextConfig):
        kind, anchors = "CLIP text encoder", ("embeddings.token_embedding.weight", "token_embedding.weight")
    else:
        kind, anchors = "T5 encoder", ("shared.weight",)
    names = list(names)
    for layout, anchor in zip(("transformers", "open_clip"), anchors, strict=False):
        found = [name for name in names if name == anchor or name.endswith("." + anchor)]
        if len(found) > 1:
            raise WeightsError(f"more than one {kind} in the file ({', '.join(found[:3])}): choose one by `within`")
        if found:
            return layout, found[0].removesuffix(anchor)
    wanted = " or ".join(f"*{anchor}" for anchor in anchors)
    raise WeightsError(f"no {kind} among the {len(names)} tensors: none is called {wanted}")


def encoder_table(config: EncoderConfig, layout: EncoderLayout = "transformers", prefix: str = "") -> EncoderTable:
    """The table of an encoder; layout and prefix as `detect_layout` gives them."""
    leaves = flatten(encoder_shapes(config))
    if layout == "open_clip":
        if isinstance(config, T5Config):
            raise ValueError("T5 is stored in the transformers layout only")
        vision = isinstance(config, CLIPVisionConfig)
        entries = {name: _open_clip(name, leaf.shape, vision) for name, leaf in leaves.items()}
        unused = ("visual.*", "transformer.*", "token_embedding.weight", "positional_embedding", "ln_final.*")
        unused = [prefix + name for name in (*unused, "text_projection", "logit_scale", "attn_mask")]
        # What is left of the other tower is expected; of this one everything must be used.
        mine = "visual." if vision else "transformer."
        unused = [pattern for pattern in unused if not pattern.startswith(prefix + mine)]
        if isinstance(config, CLIPTextConfig) and config.projection is None:
            # The last layer, which Stable Diffusion 2.1 does not use and a configuration of 23 layers does not have.
            unused.append(f"{prefix}transformer.resblocks.{config.layers}.*")
        return EncoderTable(
            {name: dataclasses.replace(entry, name=prefix + entry.name) for name, entry in entries.items()},
            tuple(unused),
        )
    outer = prefix.removesuffix("text_model.").removesuffix("vision_model.")
    entries = {}
    for name, leaf in leaves.items():
        before = outer if name in ("text_projection.kernel", "visual_projection.kernel") else prefix
        entries[name] = _whole(before + _torch_name(name), leaf.shape, _layout(name, leaf.ndim))
    if isinstance(config, T5Config):
        # A whole T5 holds its decoder too, and the embedding is stored once or twice.
        unused = [prefix + name for name in ("encoder.embed_tokens.weight", "decoder.*", "lm_head.weight")]
    else:
        other = "text_model.*" if isinstance(config, CLIPVisionConfig) else "vision_model.*"
        unused = [outer + name for name in (other, "text_projection.weight", "visual_projection.weight", "logit_scale")]
        unused.append(prefix + "embeddings.position_ids")
    return EncoderTable(entries, tuple(unused))


def match_encoder(stored: Mapping[str, StoredTensor], config: EncoderConfig, where: str) -> EncoderTable:
    """The table of the encoder among stored tensors, checked against them; reads no tensor.

    Args:
        stored: {name: tensor} of the encoder, and of what else lies beside it in its files.
        config: Sizes that the weights must have.
        where: For messages, the file or folder.

    Raises:
        WeightsError: One line: no encoder, tensors missing, left over or of another shape, or a dtype that is not read.
    """
    table = encoder_table(config, *detect_layout(stored, config))
    check_complete(table.entries, {name: t.shape for name, t in stored.items()}, f"{where} (encoder)", table.unused)
    check_dtypes({entry.name: stored[entry.name] for entry in table.entries.values()})
    return table


def encoder_fingerprint(stored: Mapping[str, StoredTensor], config: EncoderConfig, where: str) -> str:
    """SHA-256 over an encoder's vectors (biases, norms, class embedding) as float16; arguments as `match_encoder`'s.

    The same for both layouts and for files of full and half precision; matrices are not read.
    """
    value = hashlib.sha256()
    for name, entry in sorted(match_encoder(stored, config, where).entries.items()):
        if len(entry.shape) == 1:
            vector = np.asarray(entry.take(read_tensor(stored[entry.name])))
            with np.errstate(over="ignore"):
                value.update(f"{name}\n".encode() + vector.astype("<f2").tobytes())
    return value.hexdigest()


def load_encoder(
    path: str | os.PathLike,
    config: EncoderConfig,
    *,
    within: str = "",
    place: Callable[[str, np.ndarray], jax.Array] | None = None,
) -> dict:
    """Reads an encoder tensor by tensor.

    Args:
        path: A safetensors file, or a folder with one or with shards and their index.
        config: Sizes that the weights must have.
        within: Only stored names that start so are looked at, for files that hold several networks.
        place: Puts (our name, view of the file in the stored dtype) where it belongs, with the dtype and sharding
            wanted; by default float32 on the default device. It must copy (`tensor_files.arranged`), and runs in
            threads.

    Returns:
        Nested parameters of `encoder_network(config)`.

    Raises:
        WeightsError: One line: tensors missing, left over or of another shape, or a damaged file.
    """
    place = place or (lambda name, array: jnp.asarray(arranged(array, jnp.float32)))
    shapes = encoder_shapes(config)
    path = pathlib.Path(path)
    tensors = list_tensors(network_files(path) if path.is_dir() else [path])
    stored = {name: tensor for name, tensor in tensors.items() if name.startswith(within)}
    table = match_encoder(stored, config, str(path))

    def load(name: str, members: list[tuple[str, Entry]]) -> dict[str, jax.Array]:
        array = read_tensor(stored[name])
        return {ours: place(ours, entry.take(array)) for ours, entry in members}

    flat, tensors = {}, _by_tensor(table)
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        for parts in pool.map(load, tensors.keys(), tensors.values()):
            flat |= parts
    return unflatten(flat, shapes)


def _by_tensor(table: EncoderTable) -> dict[str, list[tuple[str, Entry]]]:
    """{stored name: our parameters in it}."""
    grouped: dict[str, list[tuple[str, Entry]]] = {}
    for ours, entry in table.entries.items():
        grouped.setdefault(entry.name, []).append((ours, entry))
    return grouped


def _whole(name: str, shape: tuple[int, ...], layout: Layout) -> Entry:
    return Entry(name, layout.file_shape(shape), layout)


def _layout(name: str, ndim: int) -> Layout:
    return KERNELS[ndim] if name.endswith(".kernel") else Layout(tuple(range(ndim)))


def _torch_name(name: str) -> str:
    stem, dot, leaf = name.rpartition(".")
    return stem + dot + {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)


_OPEN_CLIP_TOP = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.kernel": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "visual_projection.kernel": "proj",
    "text_projection.kernel": "text_projection",
}
_OPEN_CLIP_NORMS = {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post", "final_layer_norm": "ln_final"}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def _open_clip(name: str, shape: tuple[int, ...], vision: bool) -> Entry:
    tower, layout = "visual." if vision else "", _layout(name, len(shape))
    if name in _OPEN_CLIP_TOP:
        # Both projections are bare parameters, stored in x out as ours.
        bare = name in ("visual_projection.kernel", "text_projection.kernel")
        return _whole(tower + _OPEN_CLIP_TOP[name], shape, Layout((0, 1)) if bare else layout)
    stem, _, leaf = name.rpartition(".")
    if stem in _OPEN_CLIP_NORMS:
        return _whole(f"{tower}{_OPEN_CLIP_NORMS[stem]}.{'weight' if leaf == 'scale' else leaf}", shape, layout)
    number, _, inner = stem.removeprefix("encoder.layers.").partition(".")
    block = f"{tower}transformer.resblocks.{number}."
    if inner in _OPEN_CLIP_LAYER:
        return _whole(block + _OPEN_CLIP_LAYER[inner] + (".bias" if leaf == "bias" else ".weight"), shape, layout)
    part = ("q", "k", "v").index(inner.removeprefix("self_attn.").removesuffix("_proj"))
    joined = block + ("attn.in_proj_bias" if leaf == "bias" else "attn.in_proj_weight")
    first, *rest = layout.file_shape(shape)
    return Entry(joined, (3 * first, *rest), layout, part, 3)
