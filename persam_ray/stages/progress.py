"""TODO stages.progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called with images done, images failed among them, and seconds spent by step; for progress display only."""


def nowhere(_images: int, _failed: int, _seconds: Mapping[str, float]) -> None:
    """Report to nobody."""
