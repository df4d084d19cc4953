"""What users choose by name; without JAX, so that wrong choices are told before it is imported."""

from __future__ import annotations

from typing import Literal


Quality = Literal["draft", "standard", "best"]
"""What each stands for is in one table of each model."""
Direction = Literal["auto", "ccw", "cw"]
"""How views turn, seen from above; ``auto`` finds it."""
