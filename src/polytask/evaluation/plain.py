"""Results as JSON may hold them, and back."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator


def _read(value: object) -> object:
    return math.nan if value is None else value


Number = Annotated[float, BeforeValidator(_read)]  # nan is null in JSON


def plain(value: Any) -> Any:
    """Nested values with None for numbers that are not finite, and lists for tuples.

    Example:
        >>> plain({"low": math.nan, "seeds": (0, 1)})
        {'low': None, 'seeds': [0, 1]}
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
