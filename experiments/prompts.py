"""Files that say what to draw: JSON lines of ``{"prompt": …, "image": …, "seed": …}``."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import pathlib
from typing import Any

from im3d_jax.cli.errors import UserError
from im3d_jax.output.run_folder import RunFolder


LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Line:
    """One object to draw.

    Attributes:
        number: of its line in the file, from 1.
        prompt: in words, or None.
        image: path of a picture, or None.
        seed: of all that is random.
    """

    number: int
    prompt: str | None
    image: str | None
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number:05d}"


@dataclasses.dataclass
class Work:
    """A line and what is there of it.

    Attributes:
        line: what to draw.
        folder: its run folder.
        done: names of the stages whose files are there.
    """

    line: Line
    folder: RunFolder
    done: set[str]

    @property
    def kind(self) -> tuple[bool, bool]:
        """As `batches.Request.kind`."""
        return self.line.prompt is not None, self.line.image is not None or "input" in self.done


def read_lines(path: str | pathlib.Path, *, seed: int = 0) -> list[Line]:
    """Reads a file of prompts; empty lines are passed over.

    Args:
        path: JSON lines, UTF-8. Each needs a prompt, a picture or both; a picture's path counts from the file's folder.
        seed: of lines that name none.

    Raises:
        UserError: no such file, a line that is not such an object, or a picture that is not there.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--prompts={path}: cannot be read ({error.strerror}); give a file of JSON lines") from None
    except UnicodeDecodeError:
        raise UserError(f"--prompts={path}: not UTF-8 text; expected JSON lines such as {_EXAMPLE}") from None
    # Not splitlines: JSON strings may hold other separators of lines as they are.
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise UserError(f"--prompts={path} has no line; expected JSON lines such as {_EXAMPLE}")
    return [_line(path, number, line, seed) for number, line in numbered]


_EXAMPLE = '{"prompt": "a red mug", "seed": 1}'
_KINDS = {"prompt": (str, "text"), "image": (str, "a path"), "seed": (int, f"a whole number from 0 to {LARGEST_SEED}")}


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a JSON object; Python would take the last of two fields of one name in silence."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in fields if names.count(name) > 1)!r} is given twice")
    return fields


def _line(path: pathlib.Path, number: int, text: str, seed: int) -> Line:
    where = f"line {number} of {path}"
    try:
        data = json.loads(text, object_pairs_hook=_fields)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON ({error}); expected an object such as {_EXAMPLE}") from None
    if not isinstance(data, dict):
        raise UserError(f"{where} holds {text.strip()[:40]}; expected an object such as {_EXAMPLE}")
    for field in data:
        if field not in _KINDS:
            close = difflib.get_close_matches(field, _KINDS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(_KINDS)}"
            raise UserError(f"{where}: unknown field {field!r}; {hint}")
    given: dict[str, Any] = {field: value for field, value in data.items() if value is not None}
    for field, value in given.items():
        kind, expected = _KINDS[field]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{where}: {field} is {json.dumps(value)[:40]}; expected {expected}")
    if "prompt" not in given and "image" not in given:
        raise UserError(f"{where} has neither prompt nor image; give one of them or both")
    if "prompt" in given and not given["prompt"].strip():
        raise UserError(f"{where}: the prompt is empty; say what to make, or leave it out")
    if not 0 <= given.get("seed", 0) <= LARGEST_SEED:
        raise UserError(f"{where}: seed is {given['seed']}; expected {_KINDS['seed'][1]}")
    image = None
    if "image" in given:
        image = path.parent / given["image"]
        # Not pathlib's test, which fails on names that are too long.
        if not os.path.isfile(image):
            raise UserError(f"{where}: no picture {str(image)[:300]}; paths count from the folder of the file")
    return Line(number, given.get("prompt"), None if image is None else str(image), given.get("seed", seed))
