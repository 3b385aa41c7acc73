"""How stages report their progress."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[int, int], None]
"""Called with the number of images done and of failures among them. For display only: calls may be lost or repeated."""


def nowhere(_images: int, _failed: int) -> None:
    """Ignore the report."""
