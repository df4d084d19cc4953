"""Figures of objects: kept line by line, and summarised."""

from __future__ import annotations

import json
import math
import os
import pathlib
import platform
from collections.abc import Container, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from im3d_jax.digests import json_hash
from im3d_jax.errors import InputError
from im3d_jax.output.records import to_json


MEASURES = ("psnr", "foreground_psnr", "ssim", "perceptual")
SIMILARITIES = ("clip_text", "clip_image")


def measures(figures: Container[str]) -> tuple[str, ...]:
    """Those of every comparison with the truth: `MEASURES`, and LPIPS where its weights were given."""
    return (*MEASURES, "lpips") if "views/lpips" in figures else MEASURES


def machine() -> str:
    """The accelerator's name, or the processor's and the number of cores that this process may use."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    name = platform.processor() or platform.machine()
    information = pathlib.Path("/proc/cpuinfo")
    if information.is_file():
        models = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


class Results:
    """The finished objects of one choice of settings, kept in `results.jsonl` of a folder.

    Lines of other settings stay in the file and do not count. A last line that a killed process left unfinished is
    removed.

    Args:
        folder: Made if absent.
        command: What makes the results, for the record.
        settings: All that decides them, as JSON values.

    Attributes:
        folder: Of the results.

    Raises:
        InputError: The folder cannot be written, or a line of the file is damaged.
    """

    def __init__(self, folder: pathlib.Path, command: str, settings: Mapping[str, Any]):
        self.folder, self._command, self._settings = folder, command, json.loads(to_json(dict(settings)))
        self._key = json_hash(self._settings)[:16]
        self._lines = folder / "results.jsonl"
        self._records: dict[int, dict[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = self._lines.read_text() if self._lines.exists() else ""
            if text and not text.endswith("\n"):
                text = text[: text.rfind("\n") + 1]
                self._lines.write_text(text)
        except OSError as error:
            raise InputError(f"cannot use --out={folder} ({error.strerror}); choose another") from None
        for number, line in enumerate(text.splitlines(), 1):
            try:
                record = json.loads(line)
            except ValueError:
                raise InputError(f"line {number} of {self._lines} is damaged; remove it") from None
            if record["settings"] == self._key:
                self._records[record["index"]] = record

    def has(self, index: int) -> bool:
        """Whether the object of this index is finished."""
        return index in self._records

    def add(self, index: int, record: Mapping[str, Any]) -> None:
        """Writes the figures of an object to the file at once."""
        line = json.dumps({"settings": self._key, "index": index, **record}, allow_nan=False)
        with open(self._lines, "a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._records[index] = json.loads(line)

    def write(self, objects: range) -> dict[str, Any]:
        """Writes results.json and returns what it holds.

        Args:
            objects: Indices; those that are not finished are left out.
        """
        records = [self._records[index] for index in objects if index in self._records]
        summary = {
            "command": self._command,
            "objects": len(records),
            "settings": self._settings,
            **summarise(records),
            "records": records,
        }
        (self.folder / "results.json").write_bytes(to_json(summary))
        return summary


def statistics(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean, standard deviation of the sample (n - 1), standard error of the mean, median, and n."""
    values = np.asarray(values, np.float64)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {
        "mean": float(values.mean()),
        "std": spread,
        "standard_error": spread / math.sqrt(len(values)),
        "median": float(np.median(values)),
        "n": len(values),
    }


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested dictionaries under names joined with slashes; other values are left out."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            found[prefix + name] = value
    return found


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics over objects of every figure, of paired differences, and the bars.

    Args:
        records: Of the objects, see `objects.Evaluation.measure`; at least one.

    Returns:
        `figures` by the figure's path in a record; `differences`: `views_over_repeat/…`, and for r rounds
        `assets/r/estimated/cameras/below_views` (dB) and, against the fewest, `assets/r/refined/…`; `bars`.
    """
    rows = [flat(record) for record in records]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "index"}
    rounds, compared = sorted(records[0]["assets"]), measures(columns)
    differences = {f"views_over_repeat/{m}": columns[f"views/{m}"] - columns[f"repeat/{m}"] for m in compared}
    for r in rounds:
        for place in ("estimated/cameras", "estimated/between", "true/cameras", "true/between"):
            path = f"assets/{r}/{place}"
            differences[f"{path}/below_views"] = columns["views/psnr"] - columns[f"{path}/psnr"]
        if r == rounds[0]:
            continue
        base = f"assets/{rounds[0]}"
        names = [f"{place}/{m}" for place in ("estimated/cameras", "estimated/between") for m in compared]
        names += [f"rerendered/{m}" for m in SIMILARITIES if f"{base}/rerendered/{m}" in columns]
        for name in names:
            differences[f"assets/{r}/refined/{name}"] = columns[f"assets/{r}/{name}"] - columns[f"{base}/{name}"]
        differences[f"assets/{r}/refined/residual"] = (
            columns[f"assets/{r}/residual/psnr"] - columns[f"{base}/residual/psnr"]
        )
    figures = {name: statistics(values) for name, values in columns.items()}
    spreads = {name: statistics(values) for name, values in differences.items()}
    return {"figures": figures, "differences": spreads, "bars": _bars(figures, spreads, rounds[-1])}


def _bars(figures: dict, differences: dict, rounds: str) -> list[dict[str, Any]]:
    asset = f"assets/{rounds}/estimated"
    bars = [
        ("views, PSNR in dB", figures["views/psnr"]["mean"], ">=", 20.0),
        (
            "views over repeating the first frame, dB",
            differences["views_over_repeat/psnr"]["mean"],
            ">=",
            6.0,
        ),
        ("asset below views, 15 cameras, dB", differences[f"{asset}/cameras/below_views"]["mean"], "<=", 1.5),
        (
            "asset below views, 16 in between, dB",
            differences[f"{asset}/between/below_views"]["mean"],
            "<=",
            1.5,
        ),
        ("elevation's mean absolute error, degrees", figures["elevation_deg/error"]["mean"], "<=", 4.0),
    ]
    return [
        {
            "what": what,
            "measured": value,
            "bar": f"{sign} {bar:g}",
            "met": value >= bar if sign == ">=" else value <= bar,
        }
        for what, value, sign, bar in bars
    ]


def one_line(record: Mapping[str, Any]) -> str:
    """The main figures of one object."""
    assets = record["assets"]
    fitted = ", ".join(f"{assets[r]['estimated']['cameras']['psnr']:.2f} dB after {r} rounds" for r in sorted(assets))
    views, repeat = record["views"]["psnr"], record["repeat"]["psnr"]
    error = record["elevation_deg"]["error"]
    return f"views {views:.2f} dB (first frame {repeat:.2f}), asset {fitted}, elevation off by {error:.1f} deg"
