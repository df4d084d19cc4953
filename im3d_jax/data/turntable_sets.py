"""Opens a set of turntables of any kind, by one word."""

from __future__ import annotations

import pathlib

from im3d_jax.data.encoded import EXAMPLES
from im3d_jax.data.turntable import TurntableSet
from im3d_jax.errors import InputError


TOYBOX, PROPS = "toybox", "props"
FORMS = (
    "a folder of im3d render-dataset, a data set of experiments.build_tfds, toybox[:objects[:size[:frames]]], "
    "or props:PACK[:objects[:size[:frames]]]"
)


def open_turntables(spec: str) -> TurntableSet:
    """Opens turntables.

    Args:
        spec: A folder that `im3d render-dataset` or `build_turntables` wrote, or
            ``toybox[:objects[:size[:frames]]]``: the first objects (all) of Toybox's split "train", of this side in
            pixels (256) and so many frames (16); or ``props:PACK[:objects[:size[:frames]]]``, the same of props. A
            folder of the name toybox is ``./toybox``.

    Raises:
        InputError: Nothing of these, or a folder that is damaged.
    """
    word, *numbers = spec.split(":")
    if word == TOYBOX:
        return _toybox(spec, numbers)
    if word == PROPS and numbers:
        from im3d_jax.data.props.turntables import open_props

        return open_props(spec, numbers)
    path = pathlib.Path(spec)
    if not spec or not path.is_dir():
        raise InputError(f"no turntables at {spec or 'an empty path'}; expected {FORMS}")
    if (path / EXAMPLES).is_dir():
        raise InputError(f"{path} holds encoded turntables; expected {FORMS}")
    if (path / "settings.json").is_file():
        from im3d_jax.data.turntable_folder import TurntableFolder

        return TurntableFolder(path)
    # tensorflow-datasets takes most of a second to import: only where a folder may be one of its own.
    if not any(next(path.glob("*/" * depth + "dataset_info.json"), None) for depth in range(4)):
        raise InputError(f"{path} holds no turntables; expected {FORMS}")
    from im3d_jax.data.turntable_tfds import TurntableTfds

    return TurntableTfds(path)


def _toybox(spec: str, numbers: list[str]) -> TurntableSet:
    from im3d_jax.data.toybox.turntable_set import ToyboxTurntables

    if len(numbers) > 3 or not all(number.isascii() and number.isdigit() and int(number) for number in numbers):
        raise InputError(
            f"{spec}: expected toybox[:objects[:size[:frames]]] with positive numbers, as in {TOYBOX}:64:256"
        )
    given = dict(zip(("objects", "size", "frames"), map(int, numbers), strict=False))
    try:
        return ToyboxTurntables("train", **given)
    except ValueError as error:
        raise InputError(f"{spec}: {error}") from None
