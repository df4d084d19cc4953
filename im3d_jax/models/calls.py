"""Calling linen modules as pure functions of their parameters."""

from __future__ import annotations

from typing import Any

import flax.linen as nn


def apply(module: nn.Module, params: Any, *inputs: Any, **options: Any) -> Any:
    """What a module without mutable collections makes of inputs.

    Args:
        module: The network.
        params: Its parameters.
        *inputs: Positional arguments of the method.
        **options: Keyword arguments of the method, and ``method``, its name; ``__call__`` by default.
    """
    return module.apply({"params": params}, *inputs, **options)
