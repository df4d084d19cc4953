"""The small model's word-level tokenizer, kept in a `tokenizer.json` that the `tokenizers` library reads.

Beside the trained words in `model.vocab` the file holds `model.aliases`, {other word: trained word or words}. They have
a table of their own, because the library, given several words of one number, loses all but one when it writes them.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers


PADDING, START, UNKNOWN = SPECIAL = "[PAD]", "[START]", "[UNK]"
# Endings after which English makes the plural with -es.
_HISSING = ("s", "x", "z", "ch", "sh")


def build_tokenizer(words: Iterable[str], aliases: Mapping[str, str] | None = None) -> str:
    """The JSON of a tokenizer that knows `words`; they are lower-cased and numbered in sorted order.

    Args:
        words: What a model is trained on.
        aliases: {other word or words: the trained word or words that they stand for}, in lower case.

    Raises:
        ValueError: An alias that is a trained word already, could never be met, or stands for an unknown word.
    """
    known = [*SPECIAL, *sorted({word.lower() for word in words})]
    text = _to_json(_assemble({word: i for i, word in enumerate(known)}), dict(aliases or {}))
    _tables(text)
    return text


def _assemble(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("removed")]
    )
    return tokenizer


def _to_json(tokenizer: tokenizers.Tokenizer, aliases: dict[str, str]) -> str:
    data = json.loads(tokenizer.to_str())
    if aliases:
        data["model"]["aliases"] = dict(sorted(aliases.items()))
    return json.dumps(data, indent=1)


def _tables(text: str) -> tuple[dict[str, int], dict[str, str]]:
    """Trained words and aliases of a tokenizer's JSON."""
    # Checked here, because the library reports damage by bare exceptions.
    data = json.loads(text)
    model = data.get("model") if isinstance(data, dict) else None
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "WordLevel":
        raise ValueError(f"tokenizer.json must hold a WordLevel model, found {str(kind)[:40]}")
    words = model.get("vocab")
    if not isinstance(words, dict) or sorted(map(repr, words.values())) != sorted(map(repr, range(len(words)))):
        raise ValueError("tokenizer.json must number its words 0, 1, 2, ... in model.vocab")
    if [words.get(word) for word in SPECIAL] != [0, 1, 2]:
        raise ValueError(f"tokenizer.json must hold the words {PADDING}, {START} and {UNKNOWN} as 0, 1 and 2")
    aliases = model.get("aliases", {})
    if not isinstance(aliases, dict):
        raise ValueError("tokenizer.json must hold model.aliases as an object {other word: trained word}")
    splitter = _assemble(words)
    for alias, meant in aliases.items():
        if alias in words:
            raise ValueError(f"tokenizer.json: the alias {alias!r} is a word of model.vocab itself; remove one of them")
        # As prompts are read, or it could never be met.
        if not alias or " ".join(_split(splitter, alias)[0]) != alias:
            raise ValueError(f"tokenizer.json: the alias {alias!r} must be lower-case words without punctuation")
        targets = meant.split() if isinstance(meant, str) else []
        if not targets or any(word not in words or word in SPECIAL for word in targets):
            raise ValueError(f"tokenizer.json: the alias {alias!r} must stand for trained words, found {meant!r}")
    return words, aliases


def _split(tokenizer: tokenizers.Tokenizer, prompt: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The prompt's words in lower case, and where each begins and ends in it."""
    offsets = tokenizer.encode(prompt).offsets
    # The ending of a possessive is no word of its own.
    offsets = [(a, b) for a, b in offsets if prompt[max(0, a - 1) : b].lower() not in ("'s", "’s")]
    return [prompt[begin:end].lower() for begin, end in offsets], offsets


def _singulars(word: str) -> list[str]:
    """What the word is the regular plural of, if it is one."""
    stems = [word.removesuffix("s")] if word.endswith("s") else []
    if word.endswith("es") and word[:-2].endswith(_HISSING):
        stems.append(word.removesuffix("es"))
    if word.endswith("ies"):
        stems.append(word.removesuffix("ies") + "y")
    # Nothing shorter: "as" is no plural of "a".
    return [stem for stem in stems if len(stem) >= 3]


class WordTokenizer:
    """Prompts to fixed-length rows of word numbers; words it does not know are dropped.

    Aliases give the numbers of the trained words that they stand for, the longest alias first, and regular plurals
    those of their singular. Row 0 is padding and 1 starts every prompt, so a row of a lone 1 means "no prompt".

    Raises:
        ValueError: If the text is not the JSON of a word-level tokenizer with the special words in front.
    """

    def __init__(self, text: str, length: int):
        self._ids, self._aliases = _tables(text)
        self._tokenizer = _assemble(self._ids)
        self._known: dict[str, tuple[int, ...]] = {word: (i,) for word, i in self._ids.items() if word not in SPECIAL}
        for alias, meant in self._aliases.items():
            self._known[alias] = tuple(self._ids[word] for word in meant.split())
        self._longest = max((alias.count(" ") + 1 for alias in self._aliases), default=1)
        self.length = length

    @classmethod
    def load(cls, path: str | pathlib.Path, length: int) -> WordTokenizer:
        """Reads a `tokenizer.json`."""
        return cls(pathlib.Path(path).read_text(encoding="utf-8"), length)

    @property
    def json(self) -> str:
        """The tokenizer as text, as `build_tokenizer` wrote it."""
        return _to_json(self._tokenizer, self._aliases)

    def words(self) -> list[str]:
        """All trained words, sorted."""
        return sorted(word for word in self._ids if word not in SPECIAL)

    def aliases(self) -> dict[str, str]:
        """{other word or words: the trained word or words that they stand for}, sorted."""
        return dict(sorted(self._aliases.items()))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that it drops, in order; the whole prompt if there is no word in it."""
        pieces = self._read(prompt)
        if not pieces:
            return [prompt.strip()] if prompt.strip() else []
        return [prompt[begin:end] for ids, begin, end in pieces if not ids]

    def known_words(self, prompt: str) -> list[str]:
        """Trained words that the model reads of the prompt, in order; those that an alias stands for among them."""
        names = {number: word for word, number in self._ids.items() if word not in SPECIAL}
        return [names[number] for number in self([prompt])[0].tolist() if number in names]

    def lost_text(self, prompt: str) -> str:
        """The end of a prompt that does not fit, as it was written; empty when all of it fits."""
        used = 1  # the start
        for ids, begin, _ in self._read(prompt):
            used += len(ids)
            if used > self.length:
                return prompt[begin:].strip()
        return ""

    def __call__(self, prompts: Iterable[str]) -> np.ndarray:
        """Prompts to [B, length] int32; longer prompts lose their tail."""
        prompts = list(prompts)
        rows = np.full((len(prompts), self.length), self._ids[PADDING], np.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            words = [i for ids, _, _ in self._read(prompt) for i in ids]
            ids = [self._ids[START], *words][: self.length]
            row[: len(ids)] = ids
        return rows

    def _read(self, prompt: str) -> list[tuple[tuple[int, ...], int, int]]:
        """(numbers, begin, end) of each word or alias in the prompt; no numbers for unknown words."""
        words, offsets = _split(self._tokenizer, prompt)
        pieces, at = [], 0
        while at < len(words):
            ids, count = (), 1
            for count in range(min(self._longest, len(words) - at), 0, -1):
                if ids := self._numbers(" ".join(words[at : at + count])):
                    break
            pieces.append((ids, offsets[at][0], offsets[at + count - 1][1]))
            at += count
        return pieces

    def _numbers(self, words: str) -> tuple[int, ...]:
        found = (self._known[form] for form in (words, *_singulars(words)) if form in self._known)
        return next(found, ())
