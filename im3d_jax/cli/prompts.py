"""What of a prompt is not used: nothing that a user wrote is left out in silence."""

import textwrap
from typing import Any


# Characters of the prompt that a line quotes at most.
_QUOTED = 200


def remarks(prompt: str | None, model: Any, image_model: Any = None) -> list[str]:
    """One line for the user about each way in which the prompt is not followed; none for a prompt that is read whole.

    Args:
        prompt: As given, or None.
        model: A `Pipeline` or `OrbitPipeline`, or None where no network is needed.
        image_model: What reads the prompt where that is not the model.
    """
    reader = model if image_model is None else image_model
    if not prompt or reader is None:
        return []
    lines = []
    if unknown := reader.unknown_words(prompt):
        hint = "; see im3d doctor --vocabulary" if reader.vocabulary() else ""
        lines.append(f"not in the model's vocabulary and ignored: {', '.join(unknown)}{hint}")
    if lost := reader.lost_text(prompt):
        quoted = textwrap.shorten(lost, _QUOTED, placeholder=" ...")
        lines.append(f"the prompt is longer than the model reads, its end is left out: {quoted}")
    if image_model is None and model.recipe is not None:
        lines.append(f"the prompt is not read: {model.name} draws from the picture alone")
    return lines
