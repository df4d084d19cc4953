"""A turntable with its caption, and what every set of them offers to training."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Turntable:
    """One object seen from cameras all around it; conventions of the rig.

    Attributes:
        rgba: [F, H, W, 4] uint8, straight alpha, 0 where nothing is covered; frame 0 is the conditioning view.
        caption: What it is.
        elevations: [F] float32, radians.
        azimuths: [F] float32, radians, counter-clockwise seen from above.
        key: Names it within its set.
    """

    rgba: np.ndarray
    caption: str
    elevations: np.ndarray
    azimuths: np.ndarray
    key: str


class TurntableSet(Protocol):
    """Turntables of one size, by number."""

    @property
    def frames(self) -> int:
        """Frames of each."""
        ...

    @property
    def size(self) -> int:
        """Side of the pictures, pixels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Turntable:
        """Turntable `index`; raises IndexError outside of the set."""
        ...
