"""What a run folder remembers as JSON: finished stages, seconds, settings; what is damaged counts as not there."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any


LONGEST_SHOWN = 60  # characters of a setting in a message


def to_json(value: Any) -> bytes:
    """JSON text that is the same for equal values; NaN is refused."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def read_object(path: pathlib.Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none, or a damaged one."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def stage_records(path: pathlib.Path) -> dict[str, dict[str, Any]] | None:
    """The whole records in a file of finished stages; None where the file is missing or damaged."""
    found = read_object(path)
    return None if found is None else {name: record for name, record in found.items() if _is_record(record)}


def seconds_of_stages(path: pathlib.Path) -> dict[str, float]:
    """{stage: seconds} in a file; what is damaged is left out."""
    found = read_object(path) or {}
    return {name: value for name, value in found.items() if type(value) in (int, float)}


def _is_record(value: Any) -> bool:
    """Whether `value` is what a finished stage leaves. Earlier versions did not record the run."""
    if not isinstance(value, dict) or value.keys() - {"run"} != {"key", "outputs", "network_evaluations"}:
        return False
    outputs = value["outputs"]
    return (
        isinstance(value["key"], str)
        and isinstance(value.get("run", ""), str)
        and type(value["network_evaluations"]) is int
        and isinstance(outputs, dict)
        and all(digest is None or isinstance(digest, str) for digest in outputs.values())
        and all(_stays_inside(name) for name in outputs)
    )


def _stays_inside(name: str) -> bool:
    path = pathlib.PurePath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One text for each setting that differs, inside of nested ones too; what a user can give comes first."""
    texts = _differences(before, now, "")
    # Hashes, and the settings of fits, follow from others: alone they tell a change, behind those they tell nothing.
    return sorted(texts, key=lambda text: text.startswith("fit.") or "sha256 was" in text)


def _differences(before: Any, now: Any, name: str) -> list[str]:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [_difference(name, repr(before), repr(now))]
    prefix = f"{name}." if name else ""
    keys = sorted(before.keys() | now.keys())
    return [text for key in keys for text in _differences(before.get(key), now.get(key), prefix + key)]


def _difference(name: str, before: str, now: str) -> str:
    """A line for two values of a setting; of long ones, the part around the first difference."""
    same = len(os.path.commonprefix([before, now]))
    begin = 0 if max(len(before), len(now)) <= LONGEST_SHOWN else max(0, same - LONGEST_SHOWN // 3)
    shown = []
    for text in (before, now):
        rest = text[begin:]
        end = "…" if len(rest) > LONGEST_SHOWN else ""
        shown.append(("…" if begin else "") + rest[:LONGEST_SHOWN] + end)
    return f"{name} was {shown[0]}, now {shown[1]}"
