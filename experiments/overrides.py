"""Typed `--set a.b=c` overrides of nested frozen dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import typing


def apply_overrides(config, assignments: list[str]):
    """Returns `config` with every ``name.of.field=value`` applied.

    Values are read as the type of the field's present value: numbers, true/false, strings as they are, tuples
    as Python literals.

    Raises:
        ValueError: One line: an unknown name (with the nearest known one), or a value of the wrong type.
    """
    for assignment in assignments:
        name, found, text = assignment.partition("=")
        if not found:
            raise ValueError(f"--set={assignment}: expected name=value")
        config = _assign(config, name.split("."), text, name)
    return config


def _assign(config, path: list[str], text: str, name: str):
    known = [field.name for field in dataclasses.fields(config)]
    head, rest = path[0], path[1:]
    if head not in known:
        near = difflib.get_close_matches(head, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
        raise ValueError(f"--set={name}: {type(config).__name__} has no field {head}{hint}")
    value = getattr(config, head)
    if rest:
        if not dataclasses.is_dataclass(value):
            raise ValueError(f"--set={name}: {head} is a {type(value).__name__}, it has no fields")
        return dataclasses.replace(config, **{head: _assign(value, rest, text, name)})
    return dataclasses.replace(config, **{head: _parse(text, value, name)})


def _parse(text: str, like: typing.Any, name: str):
    kind = type(like)
    if kind is str:
        return text
    try:
        value = {"true": True, "false": False}[text.lower()] if kind is bool else ast.literal_eval(text)
    except (ValueError, SyntaxError, KeyError) as error:
        raise ValueError(f"--set={name}={text}: expected a {kind.__name__} such as {like!r}") from error
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(
            f"--set={name}={text}: expected a {kind.__name__} such as {like!r}, got a {type(value).__name__}"
        )
    return value
