"""The catalogue of props: reviewed names, and what was measured of each object, by its id."""

from __future__ import annotations

import dataclasses
import functools

from im3d_jax.data.props.kinds import LARGE, NATURAL, PEOPLE, SUPPORTS
from im3d_jax.data.props.names import CATALOGUE, Name, table


@dataclasses.dataclass(frozen=True)
class Prop:
    """One object.

    Attributes:
        id: Of the object in a pack, by its path.
        name: Reviewed.
        usual: The look of an unpainted mesh, of `paints.USUAL`; empty for a mesh with colours.
        main: sRGB of its main colour, in [0, 1].
        share: Of its visible surface that has the main colour.
        colour: The main colour's word where it covers most of the object and has a clear one, or empty.
        stands: Whether it stands on its lowest points.
        flat: Whether its top is flat.
        deep: Whether it is much longer from front to back than from side to side.
        low: Whether it is much lower than wide.
    """

    id: str
    name: Name
    usual: str
    main: tuple[float, float, float]
    share: float
    colour: str
    stands: bool
    flat: bool
    deep: bool = False
    low: bool = False

    @property
    def fixed(self) -> bool:
        """Whether it is never painted."""
        return self.name.noun in PEOPLE

    @property
    def natural(self) -> bool:
        """Whether it is mostly seen in its own colours."""
        return self.name.noun in NATURAL

    @property
    def large(self) -> bool:
        """Whether it is larger than what stands on tables."""
        return self.name.noun in LARGE

    @property
    def carries(self) -> bool:
        """Whether others can stand on it."""
        return self.flat and self.stands and self.name.noun in SUPPORTS

    def row(self) -> tuple[str, ...]:
        """Its row of the catalogue."""
        main = "".join(f"{round(255 * value):02x}" for value in self.main)
        flags = "".join(letter for letter, name in FLAGS.items() if getattr(self, name))
        return self.id, self.name.text, self.usual, main, f"{self.share:.2f}", self.colour, flags


FLAGS = {"s": "stands", "f": "flat", "d": "deep", "l": "low"}
COLUMNS = ("id", "name", "usual", "main", "share", "colour", "flags")


@functools.cache
def catalogue() -> tuple[Prop, ...]:
    """All props, sorted by id."""
    return tuple(
        Prop(
            id=row["id"],
            name=Name(row["name"]),
            usual=row["usual"],
            main=_colour(row["main"]),
            share=float(row["share"]),
            colour=row["colour"],
            **{name: letter in row["flags"] for letter, name in FLAGS.items()},
        )
        for row in table(CATALOGUE)
    )


def _colour(text: str) -> tuple[float, float, float]:
    red, green, blue = (int(text[i : i + 2], 16) / 255.0 for i in (0, 2, 4))
    return red, green, blue
