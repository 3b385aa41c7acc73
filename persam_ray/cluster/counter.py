"""The actor that progress is counted in; a module of its own, that its process starts without Ray Data."""

from collections.abc import Mapping


class ProgressCounter:
    """An actor that adds up what the stages report."""

    def __init__(self) -> None:
        self._images = self._failed = 0
        self._seconds: dict[str, float] = {}

    def add(self, images: int, failed: int, seconds: Mapping[str, float]) -> None:
        """Count images, failures among them, and seconds by step."""
        self._images += images
        self._failed += failed
        for step, spent_s in seconds.items():
            self._seconds[step] = self._seconds.get(step, 0.0) + spent_s

    def read(self) -> tuple[int, int, dict[str, float]]:
        """Return the sums so far."""
        return self._images, self._failed, self._seconds
