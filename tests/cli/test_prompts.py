"""What of a prompt is not used is said, a line each."""

import pytest

from im3d_jax.cli.prompts import remarks
from im3d_jax.data.toybox import VOCABULARY
from im3d_jax.weights import BUNDLED, WordTokenizer


class Reader(WordTokenizer):
    """The bundled tokenizer with what else of a model is asked for."""

    name, recipe = "reader", None

    def vocabulary(self):
        return {word: [] for word in self.words()}


@pytest.fixture(scope="module")
def tiny():
    return Reader.load(BUNDLED / "tokenizer.json", 24)


def test_a_prompt_that_is_read_whole(tiny):
    for prompt in (None, "a red mug", " ".join(VOCABULARY[:23])):
        assert remarks(prompt, tiny) == []
    assert remarks("zebra", None) == []


def test_unknown_words_and_the_end_of_a_long_prompt(tiny):
    (line,) = remarks("a Zebra mug", tiny)
    assert line == "not in the model's vocabulary and ignored: Zebra; see im3d doctor --vocabulary"
    # 23 words fit; an unknown one takes no room.
    unknown, lost = remarks("zebra " + "red " * 23 + "\nmug,  with white dots.", tiny)
    assert "zebra" in unknown
    assert lost == "the prompt is longer than the model reads, its end is left out: mug, with white dots."


def test_a_very_long_prompt_is_quoted_in_part(tiny):
    (line,) = remarks("red " * 5000, tiny)
    assert line.endswith("red red ...") and len(line) < 300


def test_a_model_that_reads_no_prompts_and_one_that_reads_for_it(tiny):
    class Orbits:
        name, recipe = "orbits", "rig"
        unknown_words = vocabulary = lambda self, prompt=None: []
        lost_text = lambda self, prompt: ""  # noqa: E731

    assert remarks("zebra", Orbits()) == ["the prompt is not read: orbits draws from the picture alone"]
    (line,) = remarks("zebra", Orbits(), tiny)
    assert "zebra" in line and "--vocabulary" in line
