"""The reviewed names of props: what a person calls an object, its noun, and the key by which the split is made.

`names.tsv` has the columns `folder` (the first of an object's path), `caption` (as the pack has it), `files` (a pattern
for the path; the row with a pattern comes before the one without), `name` (empty: the object is left out) and `usual`
(the colour or material of an unpainted mesh, see `paints.USUAL`).

Of a name, ``[...]`` holds colours and golden parts, which go when the object is painted, and ``_`` joins a noun of
several words: "post with a [blue] flag", "open treasure_chest".
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import hashlib
import importlib.resources
import re
from collections.abc import Mapping


NAMES, CATALOGUE = "names.tsv", "catalogue.tsv"
# Words before "of" that count or shape what comes after it, which is the noun.
_COUNTING = frozenset(
    "blades block bundle group loaf pack patch piece pieces pile row scoop slice slices stack stacks stick tuft".split()
)
# What comes before a colour in English: "a small red table".
_BEFORE_COLOURS = frozenset(
    "arched bare big broken burning curved damaged deep dented dirty elevated hexagonal large long low melted "
    "octagonal old open oval round small simple square tall thin two three four".split()
)
_MASS = frozenset(
    "armor bacon broccoli cheese dirt firewood grass lettuce meat scaffolding smoke sushi toilet_paper wheat "
    "whipped_cream".split()
)
_PLURAL = frozenset(
    "bars blades brass_knuckles bullets candles crystals curtains drawers floodlights flowers glasses grapes "
    "headphones notes pieces pliers posts ribs rings rocks sacks slices spikes stacks tanks triangles tweezers".split()
)


@dataclasses.dataclass(frozen=True)
class Name:
    """A reviewed name.

    Attributes:
        text: As in the table.
    """

    text: str

    @property
    def phrase(self) -> str:
        """All of it, as a person says it, without an article: "post with a blue flag"."""
        return _plain(self.text.replace("[", "").replace("]", ""))

    @property
    def bare(self) -> str:
        """Without its colours, nor what follows "with" for their sake: "post"."""
        return _plain(_uncoloured(self.text))

    @property
    def noun(self) -> str:
        """What it is, in one word or one joined by blanks: "post"."""
        return _plain(_head(_uncoloured(self.text)))

    @property
    def held_out(self) -> bool:
        """Whether the test split has it: one in ten, by the SHA-256 of `bare`, with all its colours and variants."""
        return int.from_bytes(hashlib.sha256(self.bare.encode()).digest()[:8], "big") % 10 == 0

    @property
    def composite(self) -> bool:
        """Whether it names something besides the object: what is in it, on it or about it."""
        words = self.bare.split()
        counted = len(words) > 1 and "of" in words and words[words.index("of") - 1] in _COUNTING
        return bool({"with", "in", "on", "full", "over"} & set(words)) or ("of" in words and not counted)

    def with_article(self, words: str = "", *, coloured: bool = True) -> str:
        """The name in a caption.

        Args:
            words: Colour or material; stands where a person puts it: "a small red table", "a stack of red books".
            coloured: Whether the name's own colours are said.
        """
        text = self.phrase if coloured else self.bare
        said = self._insert(words, text) if words else text
        return said if self._countless else f"{_article(said)} {said}"

    @staticmethod
    def _insert(words: str, text: str) -> str:
        parts = text.split()
        place = 0
        while place < len(parts) - 1 and parts[place] in _BEFORE_COLOURS:
            place += 1
        if len(parts) > place + 2 and parts[place] in _COUNTING and parts[place + 1] == "of":
            place += 2
        return " ".join([*parts[:place], words, *parts[place:]])

    @property
    def _countless(self) -> bool:
        text = _uncoloured(self.text)
        first = text.split()[0]
        if first in ("two", "three", "four"):
            return True
        front = re.split(r" (?:with|in|on|full|over|of|and) ", f"{text} ")[0].split()
        last = front[-1] if front else ""
        return last in _PLURAL or last in _MASS or text in ("chopped potato", "mashed potato")


def _uncoloured(text: str) -> str:
    kept = re.sub(r" (?:with|in|on) (?:a |an )?\[[^\]]*\].*$", "", text)
    return re.sub(r"\[[^\]]*\] ?", "", kept).strip()


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").split())


def _head(text: str) -> str:
    words = re.split(r" (?:with|in|on|full|over|and) ", text)[0].split()
    if "of" in words:
        place = words.index("of")
        counted = words[place - 1] in _COUNTING
        words = words[place + 1 :] if counted else words[:place]
        if counted and len(words[-1]) > 3 and re.search(r"[^su]s$", words[-1]):
            return words[-1][:-1]
    return words[-1]


def _article(words: str) -> str:
    sounds_long = words[:1] in "aeiou" or words.split()[0] == "SUV"
    return "an" if sounds_long and not words.startswith(("uni", "one", "USB", "use")) else "a"


def table(name: str) -> list[dict[str, str]]:
    """Rows of a table of this package: `NAMES` or `CATALOGUE`."""
    text = (importlib.resources.files("im3d_jax.data.props") / name).read_text("utf-8")
    header, *lines = (line.split("\t") for line in text.splitlines())
    return [dict(zip(header, cells, strict=True)) for cells in lines]


def reviewed_name(
    path: str, caption: str, rows: Mapping[tuple[str, str], list[dict[str, str]]]
) -> dict[str, str] | None:
    """The row of the table of names for an object.

    Args:
        path: Of the object's file, relative to the data.
        caption: In its pack.
        rows: Of `names_by_caption`.

    Returns:
        The row; None where there is none.
    """
    for row in rows.get((path.split("/")[0], caption), ()):
        if not row["files"] or fnmatch.fnmatchcase(path, row["files"]):
            return row
    return None


@functools.cache
def names_by_caption() -> dict[tuple[str, str], list[dict[str, str]]]:
    """The reviewed table by (folder, caption); rows with a pattern for files come first."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in table(NAMES):
        found.setdefault((row["folder"], row["caption"]), []).append(row)
    return {key: sorted(rows, key=lambda row: not row["files"]) for key, rows in found.items()}
