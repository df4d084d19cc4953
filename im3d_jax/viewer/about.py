"""The words of a page: title, facts and measures."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any


# Sections of metrics.json in the order of the table, and what each compares the asset with.
_COMPARED = {
    "against_first_views": "the first drawing",
    "against_targets": "the refined views",
    "views": "the fitted pictures",
    "test": "held-out pictures",
}
_LONGEST_NAME = 60


@dataclasses.dataclass(frozen=True)
class About:
    """What a page says of an asset.

    Attributes:
        title: The prompt, or the name of a file.
        kicker: A short line above the title.
        facts: Pairs of a label and a text.
        given: What the views are: "Drawn" by a model, or "Captured".
    """

    title: str
    kicker: str
    facts: Sequence[tuple[str, str]] = ()
    given: str = "Drawn"

    @property
    def file_name(self) -> str:
        """A name for saved files: lower-case letters, digits and hyphens, at most 60 of them."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:_LONGEST_NAME].strip("-") or "asset"


def about_request(request: Mapping[str, Any], model: str) -> About:
    """Of a generated asset.

    Args:
        request: Fields of the `AssetRequest`, as in run.json.
        model: Name of the model.
    """
    prompt, rounds = request.get("prompt"), request.get("rounds")
    facts = [("Model", model), ("Quality", str(request.get("quality"))), ("Seed", str(request.get("seed")))]
    if rounds is not None:
        facts.append(("Refinement", {0: "none", 1: "1 round"}.get(rounds, f"{rounds} rounds")))
    source = "a picture" if prompt is None else "a prompt and a picture" if request.get("image") else "a prompt"
    return About(prompt[:1].upper() + prompt[1:] if prompt else "From a picture", f"Made from {source}", facts)


def about_captures(count: int, seed: int | None, *, generated: bool) -> About:
    """Of an asset that was fitted to given views.

    Args:
        count: Of the views.
        seed: Of the fit.
        generated: Whether a model drew the views.
    """
    facts = [] if seed is None else [("Seed", str(seed))]
    if generated:
        return About("Asset", f"Fitted to {count} drawn views", facts)
    return About("Reconstruction", f"Fitted to {count} pictures", facts, "Captured")


def about_file(name: str, suffix: str = "") -> About:
    """Of gaussians of which nothing is known.

    Args:
        name: Of the file without its ending, or of the run folder.
        suffix: Last part of the ending, as ".ply"; empty for folders.
    """
    return About(name, f"Gaussian splat {suffix.removeprefix('.').upper()}".rstrip())


def measures_of(metrics: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Rows of the table of measures: a label and PSNR, SSIM and perhaps LPIPS as texts; the first row holds the names.

    Args:
        metrics: Sections of metrics.json; what they lack is left out.
    """
    found = {
        label: metrics[name]
        for name, label in _COMPARED.items()
        if isinstance(metrics.get(name), Mapping) and {"psnr", "ssim"} <= metrics[name].keys()
    }
    if not found:
        return []
    if found.get(_COMPARED["against_targets"]) == found.get(_COMPARED["against_first_views"]):
        found.pop(_COMPARED["against_targets"], None)  # there was no refinement
    lpips = all("lpips" in section for section in found.values())
    rows = [("The asset against", ["PSNR", "SSIM", *(["LPIPS"] if lpips else [])])]
    for label, section in found.items():
        numbers = [f"{section['psnr']:.1f} dB", f"{section['ssim']:.3f}"]
        rows.append((label, numbers + ([f"{section['lpips']:.3f}"] if lpips else [])))
    return rows
