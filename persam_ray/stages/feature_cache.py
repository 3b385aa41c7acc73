"""Encoded photos, kept in a folder or a bucket: a later run over the same photos skips SAM's encoder.

The driver opens it (is it reachable, is it ours, how much room is left?); actors use it through `cached_encoder`.

One object for each photo, 2 MB for ViT-B in bfloat16, 4 MB in float32, 0.6 MB for the demo's SAM:

    <cache>/features-1/3f/3fa9...c2.safetensors   named by the SHA-256 of everything that decides its content

One object for each photo keeps this simple: writers need not know of each other, and any object may be deleted at any
time. Packing many photos into one object would save requests, but lose that. The name follows from the pixels of the
model frame, not from the photo's file, because the encoder sees pixels, whichever library decoded them. Hashing 2 MB
takes 2 ms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from persam_ray.console import console
from persam_ray.data.storage import (
    StorageError,
    absolute,
    base_name,
    check_writable,
    list_sizes,
)
from persam_ray.text import public

FORMAT = 1
"""Raise it when the layout of the objects changes, or when the features of the same weights change beyond rounding."""

FOLDER = f"features-{FORMAT}"
OWN_FILES = re.compile(rf"{FOLDER}/[0-9a-f]{{2}}/[0-9a-f]{{64}}\.safetensors")
GB = 10**9


@dataclass(frozen=True)
class FeatureCache:
    """A folder or bucket in which features are kept.

    Attributes:
        uri: Folder or prefix, absolute if it is a path.
        room_bytes: Bytes that may be added.
    """

    uri: str
    room_bytes: int

    def share(self, actors: int) -> FeatureCache:
        """Return the cache for one of several actors: each may use an equal part of the room."""
        return FeatureCache(self.uri, self.room_bytes // actors)


def open_cache(uri: str | None, limit_gb: float) -> FeatureCache | None:
    """Check, before any work, that a cache can be used, and measure how full it is.

    Nothing is ever removed: old features are as good as new ones. When there are more photos than room, the first ones
    stay hits in every run.

    Args:
        uri: Value of --feature-cache; None for no cache.
        limit_gb: Largest size of the cache, in 10^9 bytes. Runs that fill it at the same time do not see each other's
            additions.

    Returns:
        The cache; None if `uri` is None, or if the folder holds other files. In that case a line is printed, and the
        folder is left alone.

    Raises:
        StorageError: The cache cannot be listed or written.
    """
    if uri is None:
        return None
    uri = absolute(uri).rstrip("/")
    try:
        check_writable(uri)
        sizes = list_sizes(uri)
    except StorageError as error:
        raise StorageError(f"--feature-cache {error}") from error
    foreign = sorted(name for name in sizes if not OWN_FILES.fullmatch(name) and not base_name(name).startswith("."))
    if foreign:
        console.print(
            f"--feature-cache {public(uri)}: not used, because it holds other files than {FOLDER}/ ({foreign[0]}, ...)"
        )
        return None
    return FeatureCache(uri, max(0, int(limit_gb * GB) - sum(sizes.values())))
