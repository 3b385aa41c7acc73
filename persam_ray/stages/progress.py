"""What stages tell whoever watches them work."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[int, int], None]
"""Called with images done and failures among them. To look at only: messages may be lost, or come twice."""


def nowhere(_images: int, _failed: int) -> None:
    """Report to nobody."""
