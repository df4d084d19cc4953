"""Finding a model: a path on this machine, a snapshot in the hub's cache, or, last, a download."""

from __future__ import annotations

import os
import pathlib
import re

from im3d_jax.errors import WeightsError
from im3d_jax.weights.tensor_files import network_files


# A repository, and perhaps one of its safetensors files.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w.-]+\.safetensors)?")
# Gigabytes of what is taken: all networks' parameters at four bytes, as the files without a variant hold them; of SV3D
# one of its two files.
SIZES = {
    "stabilityai/stable-video-diffusion-img2vid": 9.0,
    "stabilityai/stable-video-diffusion-img2vid-xt": 9.0,
    "stabilityai/sv3d": 9.4,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": 4.3,
    "stabilityai/stable-diffusion-2-1": 5.2,
    "stabilityai/stable-diffusion-2-1-base": 5.2,
}
SV3D = "sv3d_u.safetensors"
WANTED = (
    "*.json",
    "*/*.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "image_encoder/model.safetensors",
    "text_encoder/model.safetensors",
    "tokenizer/*",
    SV3D,
)


def find_model(model: str, flag: str = "--model") -> pathlib.Path:
    """The folder or file of a model.

    Args:
        model: A path, a hub id ``organisation/name``, or one with a file's name behind it, such as
            ``stabilityai/sv3d/sv3d_p.safetensors``. What is on this machine is looked for first.
        flag: What it was given by, for messages.

    Raises:
        WeightsError: One line: what is missing, how large it is, and where to put it.
    """
    if os.path.exists(model):
        return pathlib.Path(model)
    if not HUB_ID.fullmatch(model):
        raise WeightsError(f"{flag}={model}: no such file or folder, and not a hub id (organisation/name)")
    repository, file = "/".join(model.split("/")[:2]), "/".join(model.split("/")[2:])
    size = f"about {SIZES[repository]:g} GB" if repository in SIZES else "size unknown"
    what = file or (SV3D if repository == "stabilityai/sv3d" else "its safetensors and JSON files")
    by_hand = f"fetch {what} ({size}) on another machine and give their folder as {flag}=FOLDER"
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise WeightsError(
            f"{flag}={model}: no such folder; to download it, pip install 'im3d-jax[hub]', or {by_hand}"
        ) from error
    try:
        snapshot = pathlib.Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
        if (snapshot / file).is_file() if file else _is_whole(snapshot):
            return snapshot / file
    except HFValidationError as error:
        raise WeightsError(f"{flag}={model}: no such file or folder, and not a hub id ({str(error)[:160]})") from error
    except LocalEntryNotFoundError:
        pass
    try:
        wanted: list[str] = [file] if file else [*WANTED]
        snapshot = pathlib.Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0][:160]
        raise WeightsError(
            f"{flag}={model} is not on this machine and cannot be downloaded from the hub ({reason}); {by_hand}"
        ) from error
    # Without a network the hub's library gives what it has, and says so in a warning at most.
    if not ((snapshot / file).is_file() if file else any(snapshot.rglob("*.safetensors"))):
        raise WeightsError(
            f"{flag}={model}: its snapshot {snapshot} holds no {file or 'safetensors file'}, and the hub sent none; "
            f"connect to the network and try again, or {by_hand}"
        )
    return snapshot / file


def _is_whole(snapshot: pathlib.Path) -> bool:
    """Whether a snapshot holds all that a model is read from; downloads that were interrupted leave a part."""
    if any(snapshot.glob("sv3d_?.safetensors")):
        return (snapshot / SV3D).is_file()
    try:
        if not (snapshot / "unet").is_dir():
            return bool(network_files(snapshot))
        encoder = "image_encoder" if (snapshot / "image_encoder").is_dir() else "text_encoder"
        for network in ("unet", "vae", encoder):
            network_files(snapshot / network)
    except WeightsError:
        return False
    # These decide between families whose tensors are alike, and a prompt needs its words.
    needed = ["unet/config.json", "scheduler/scheduler_config.json"]
    if encoder == "text_encoder" and not (snapshot / "tokenizer/tokenizer.json").is_file():
        needed += ["tokenizer/vocab.json", "tokenizer/merges.txt"]
    return all((snapshot / name).is_file() for name in needed)
