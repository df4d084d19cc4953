"""Files that say what to draw: JSON lines of ``{"prompt": …, "image": …, "seed": …}``."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

from im3d_jax import seeds
from im3d_jax.errors import InputError, unknown_field
from im3d_jax.generation.request import AssetRequest
from im3d_jax.paths import expand


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """One object to draw.

    Attributes:
        number: Of its line in the file, from 1.
        request: What the line says.
    """

    number: int
    request: AssetRequest

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number:05d}"


def read_lines(path: str | pathlib.Path, *, seed: int = 0, **fields: Any) -> list[Line]:
    """Reads a file of prompts; empty lines are skipped.

    Args:
        path: JSON lines, UTF-8. Each needs a prompt, a picture or both; a picture's path is relative to the file.
        seed: Of lines that name none.
        **fields: Further fields of every `AssetRequest`: quality, rounds, elevation_deg, orbit_direction, start.

    Raises:
        InputError: no such file, one of more than 64 MiB, a line that is not such an object, or a picture that is not
            there.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise InputError(f"--prompts={path}: more than {_MOST_BYTES >> 20} MiB; split it, or use --shard")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"--prompts={path}: cannot be read ({error.strerror}); give a file of JSON lines") from None
    except UnicodeDecodeError:
        raise InputError(f"--prompts={path}: not UTF-8 text; expected JSON lines such as {_EXAMPLE}") from None
    # Not splitlines: JSON strings may hold other separators of lines as they are.
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise InputError(f"--prompts={path} has no lines; expected JSON lines such as {_EXAMPLE}")
    return [_line(path, number, line, seed, fields) for number, line in numbered]


_MOST_BYTES = 1 << 26  # devices such as /dev/zero never end
_EXAMPLE = '{"prompt": "a red mug", "seed": 1}'
_KINDS = {"prompt": (str, "text"), "image": (str, "a path"), "seed": (int, f"a whole number from 0 to {seeds.LARGEST}")}


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a JSON object; Python would take the last of two fields of one name in silence."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in fields if names.count(name) > 1)!r} is given twice")
    return fields


def _line(path: pathlib.Path, number: int, text: str, seed: int, fields: dict[str, Any]) -> Line:
    where = f"line {number} of {path}"
    try:
        data = json.loads(text, object_pairs_hook=_fields)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); expected an object such as {_EXAMPLE}") from None
    if not isinstance(data, dict):
        raise InputError(f"{where} holds {text.strip()[:40]}; expected an object such as {_EXAMPLE}")
    for field in data:
        if field not in _KINDS:
            raise InputError(f"{where}: {unknown_field(field, _KINDS)}")
    given: dict[str, Any] = {field: value for field, value in data.items() if value is not None}
    for field, value in given.items():
        kind, expected = _KINDS[field]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(f"{where}: {field} is {json.dumps(value)[:40]}; expected {expected}")
    if "prompt" not in given and "image" not in given:
        raise InputError(f"{where} has neither prompt nor image; give one of them or both")
    if "prompt" in given and not given["prompt"].strip():
        raise InputError(f"{where}: the prompt is empty; say what to make, or leave it out")
    if not 0 <= given.get("seed", 0) <= seeds.LARGEST:
        raise InputError(f"{where}: seed is {given['seed']}; expected {_KINDS['seed'][1]}")
    image = None
    if "image" in given:
        image = path.parent / expand(given["image"])
        # Not pathlib's test, which fails on names that are too long.
        if not os.path.isfile(image):
            raise InputError(
                f"{where}: no picture {str(image)[:300]}; paths are relative to the folder of the prompts file"
            )
    try:
        request = AssetRequest(
            given.get("prompt"), None if image is None else str(image), given.get("seed", seed), **fields
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return Line(number, request)
