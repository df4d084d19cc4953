"""Typed `--set a.b=c` overrides of nested frozen dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from im3d_jax.choices import LARGEST_WHOLE
from im3d_jax.errors import InputError
from im3d_jax.paths import expand


Config = TypeVar("Config")


def apply_overrides(config: Config, assignments: Sequence[str]) -> Config:
    """Returns `config` with every ``name.of.field=value`` applied.

    Values are read as the field's annotation says: numbers, true/false, strings as they are, none where a field may
    be None, tuples as Python literals, and one of the words of a Literal. A name that one nested part alone has may be
    given without its parents: ``batch=64`` for ``run.batch=64``.

    Raises:
        InputError: An unknown or ambiguous name (with the nearest known one), or a value of the wrong type.
    """
    for assignment in assignments:
        name, found, text = assignment.partition("=")
        if not found:
            raise InputError(f"--set={assignment}: expected name=value")
        path = _path(config, name)
        config = _assign(config, path, text, ".".join(path))
    return config


def _path(config: Any, name: str) -> list[str]:
    """The whole path of a name."""
    head, _, rest = name.partition(".")
    if head in (field.name for field in dataclasses.fields(config)):
        return name.split(".")
    parts = [
        field.name for field in dataclasses.fields(config) if dataclasses.is_dataclass(getattr(config, field.name))
    ]
    owners = [part for part in parts if head in (field.name for field in dataclasses.fields(getattr(config, part)))]
    if len(owners) > 1:
        raise InputError(f"--set={name}: {' and '.join(owners)} have a field {head}; write {owners[0]}.{name}")
    return [*owners, *name.split(".")]


def _assign(config: Any, path: Sequence[str], text: str, name: str) -> Any:
    known = [field.name for field in dataclasses.fields(config)]
    head, rest = path[0], path[1:]
    if head not in known:
        near = difflib.get_close_matches(head, _all_names(config), n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
        raise InputError(f"--set={name}: {type(config).__name__} has no field {head}{hint}")
    value = getattr(config, head)
    if rest:
        if not dataclasses.is_dataclass(value):
            raise InputError(f"--set={name}: {head} is a {type(value).__name__}, it has no fields")
        return _replaced(config, head, _assign(value, rest, text, name))
    kind = typing.get_type_hints(type(config))[head]
    return _replaced(config, head, _parse(text, kind, value, name))


def _replaced(config: Any, head: str, value: Any) -> Any:
    return dataclasses.replace(config, **{head: value})


def _all_names(config: Any) -> list[str]:
    """Names of fields, and of the fields of parts."""
    names = []
    for field in dataclasses.fields(config):
        names.append(field.name)
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            names += [part.name for part in dataclasses.fields(value)]
    return names


def _parse(text: str, kind: Any, like: Any, name: str) -> Any:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        if text.lower() == "none":
            return None
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        if text not in typing.get_args(kind):
            raise InputError(f"--set={name}={text}: expected {' or '.join(map(str, typing.get_args(kind)))}")
        return text
    kind = typing.get_origin(kind) or kind
    if dataclasses.is_dataclass(kind) or not isinstance(kind, type) or dataclasses.is_dataclass(like):
        raise InputError(f"--set={name}={text}: {name} has fields; set one of them")
    if kind is str:
        return expand(text) if text.startswith("~/") else text
    expected = f"expected {'an' if kind.__name__[0] in 'aeiou' else 'a'} {kind.__name__}"
    expected += "" if like is None else f" such as {like!r}"
    try:
        if kind is float:
            number = float(text)
            if math.isnan(number):
                raise ValueError
            return number
        value = {"true": True, "false": False}[text.lower()] if kind is bool else ast.literal_eval(text)
    except (ValueError, SyntaxError, KeyError):
        raise InputError(f"--set={name}={text}: {expected}") from None
    for number in value if isinstance(value, tuple) else (value,):
        if type(number) is int and abs(number) > LARGEST_WHOLE:
            raise InputError(
                f"--set={name}={text[:40]}: expected whole numbers from -{LARGEST_WHOLE} to {LARGEST_WHOLE}"
            )
    if type(value) is not kind:
        raise InputError(f"--set={name}={text}: {expected}, got {type(value).__name__}")
    return value
