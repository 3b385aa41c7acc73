"""What identifies a photo, and a version of it: 64-bit hashes that are the same on every machine."""

from __future__ import annotations

import hashlib


def image_key(image_id: str) -> int:
    """Return a 64-bit hash of an image's name: the same on every machine, so that ties fall alike in all shards."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "big")


def version_key(version: str | None) -> int:
    """Return 64 bits that stand for a version; 0, which no version has, for None."""
    return 0 if version is None else max(1, image_key(version))
