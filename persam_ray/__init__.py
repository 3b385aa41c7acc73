"""Label a bucket of photos from one reference photo and mask."""

__version__ = "0.1.0"
