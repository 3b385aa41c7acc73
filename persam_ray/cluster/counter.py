"""The actor that counts progress. It has its own module so that its process starts without loading Ray Data."""


class ProgressCounter:
    """An actor that adds up the reports of the stages, for the display while a job runs."""

    def __init__(self) -> None:
        self._images = self._failed = 0

    def add(self, images: int, failed: int) -> None:
        """Count images, and the failures among them."""
        self._images += images
        self._failed += failed

    def read(self) -> tuple[int, int]:
        """Return images and failures so far."""
        return self._images, self._failed
