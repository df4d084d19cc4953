"""Prompts that name nothing a model was trained on, and what to write instead."""

from __future__ import annotations

import difflib
import textwrap

from im3d_jax.weights.tokenizer import WordTokenizer


# Words of captions that say how or where a thing is, not what: a prompt of these alone leaves the object to chance.
_FUNCTION_WORDS = frozenset(
    "a an and at behind beside by for from in near next of on over the to under upon with without".split()
)
_COLOURS = frozenset(
    "red orange yellow green cyan blue purple pink brown black gray grey white gold silver beige".split()
)
_LOOKS = frozenset(
    "small large big little tiny huge tall short plain wooden metal golden bronze plastic "
    "stripes striped dots dotted checks checked bands banded zigzags".split()
)
QUALIFIERS = _FUNCTION_WORDS | _COLOURS | _LOOKS

# Colours of the example prompts, where the model knows them.
_EXAMPLE_COLOURS = ("red", "blue", "green")
_MOST_NEAREST, _EXAMPLES = 5, 3
_CLOSE = 0.65  # ratio of difflib: "pangolin" is close to "penguin", "cloud" is not to "couch"


def things(tokenizer: WordTokenizer) -> list[str]:
    """Trained words that name a thing, sorted: all but articles, prepositions, colours, sizes, materials, patterns."""
    return [word for word in tokenizer.words() if word not in QUALIFIERS]


def nothing_known(prompt: str, tokenizer: WordTokenizer, name: str) -> str | None:
    """What to tell a user whose prompt names no thing that the model knows.

    Args:
        prompt: What the user wrote.
        tokenizer: Of the model.
        name: Of the model, for the line.

    Returns:
        One line with the nearest known words and example prompts; None where the prompt names a known thing, or where
        no trained word names one.
    """
    known = things(tokenizer)
    if not known or not QUALIFIERS.issuperset(tokenizer.known_words(prompt)):
        return None
    unknown = list(dict.fromkeys(word.lower() for word in tokenizer.unknown_words(prompt)))
    named = set(known)
    names = [*known, *(other for other, word in tokenizer.aliases().items() if named & set(word.split()))]
    close = [other for word in unknown for other in difflib.get_close_matches(word, names, 3, _CLOSE)]
    nearest = list(dict.fromkeys(close))[:_MOST_NEAREST]
    why = "it names no thing" if not unknown else f"it does not know {textwrap.shorten(', '.join(unknown), 80)}"
    hint = f"; nearest known words: {', '.join(nearest)}" if nearest else ""
    return (
        f'the prompt "{textwrap.shorten(prompt, 80)}" has no thing that {name} can draw: {why}{hint}; '
        f"write for instance {_listed(_examples(nearest, known, tokenizer))} "
        "(all words: im3d doctor --vocabulary), or give a picture as --image"
    )


def _examples(nearest: list[str], known: list[str], tokenizer: WordTokenizer) -> list[str]:
    """Prompts of the nearest things and of others from all over the vocabulary."""
    spread = known[len(known) // (2 * _EXAMPLES) :: max(1, len(known) // _EXAMPLES)]
    chosen = list(dict.fromkeys([*nearest[: _EXAMPLES - 1], *spread, *known]))[:_EXAMPLES]
    colours = [colour for colour in _EXAMPLE_COLOURS if colour in set(tokenizer.words())] or [""]
    texts = [f"{colours[place % len(colours)]} {thing}".strip() for place, thing in enumerate(chosen)]
    return [f"{'an' if text[0] in 'aeiou' else 'a'} {text}" for text in texts]


def _listed(prompts: list[str]) -> str:
    quoted = [f'"{prompt}"' for prompt in prompts]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
