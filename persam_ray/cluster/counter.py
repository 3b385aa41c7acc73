"""The actor that progress is counted in; a module of its own, so that its process starts without Ray Data."""


class ProgressCounter:
    """An actor that adds up what the stages report, to be shown while a job runs."""

    def __init__(self) -> None:
        self._images = self._failed = 0

    def add(self, images: int, failed: int) -> None:
        """Count images, and the failures among them."""
        self._images += images
        self._failed += failed

    def read(self) -> tuple[int, int]:
        """Return the sums so far."""
        return self._images, self._failed
