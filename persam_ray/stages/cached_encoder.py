"""SAM's encoder behind the feature cache, as an actor uses it.

encoder = CachedEncoder(sam, fingerprint, cache.share(actors))
asked = encoder.ask(photos)                          threads look up a table's photos, 16 at most, ahead of the model
features = encoder.encode(photos[:1], asked[:1])     read from the cache, or encoded and on their way into it
outcomes = encoder.settle()                          waits until all features are kept
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persam_ray.data.storage import StorageError, join, read_bytes, write_bytes
from persam_ray.runs.effort import CacheOutcome
from persam_ray.stages.feature_cache import FOLDER, FORMAT, FeatureCache

if TYPE_CHECKING:
    import torch

    from persam_ray.sam.model import Sam
    from persam_ray.types import ByteArray

THREADS = 8
"""Threads of each actor that read from the cache and write to it."""

FAILURES_IN_A_ROW = 3
"""After this many failures in a row an actor goes on without the cache: each may have waited for its timeouts."""


@dataclass(frozen=True)
class Entry:
    """A photo's place in the cache, and what was found there.

    Attributes:
        key: SHA-256 of everything that decides the features (weights, encoding, pixels), in hexadecimal digits.
        features_1chw: float32 on the CPU, laid out in memory as the encoder gave them; None for a miss.
        failure: The error of reading the entry; None if there was none.
    """

    key: str
    features_1chw: torch.Tensor | None = None
    failure: str | None = None


@dataclass
class _LookedUp:
    """The outcome of one photo so far."""

    outcome: CacheOutcome
    failure: str | None
    write: Future[str | None] | None = None


class CachedEncoder:
    """SAM's encoder behind a cache. One thread calls it; reading and writing have threads of their own.

    A hit equals the kept features bit for bit, and has their memory layout, on which the order of later sums depends.
    The key does not cover the chip, the number of threads and torch's version, which may change rounding.

    Args:
        sam: The model that encodes the misses.
        fingerprint: Fingerprint of its checkpoint, so that one SAM never finds the features of another.
        cache: Where features are kept, and how many bytes this encoder may add.

    Raises:
        ValueError: The fingerprint is empty: the checkpoint was not read from a file.
    """

    def __init__(self, sam: Sam, fingerprint: str, cache: FeatureCache) -> None:
        if not fingerprint:
            raise ValueError("features of a checkpoint without a fingerprint cannot be told from those of another")
        self._sam = sam
        self._identity = {"format": FORMAT, "sam": fingerprint, "encoding": sam.encoding}
        self._folder, self._room_bytes = join(cache.uri, FOLDER), cache.room_bytes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="feature-cache")
        self._failures = 0
        self._looked_up: list[_LookedUp] = []

    def ask(self, photos: Sequence[ByteArray]) -> list[Future[Entry]]:
        """Start to look up photos, each (h, w, 3) uint8 of the model frame; do not change them meanwhile."""
        return [self._threads.submit(self._look_up, photo) for photo in photos]

    def encode(self, photos: Sequence[ByteArray], asked: Sequence[Future[Entry]]) -> torch.Tensor:
        """Return features (b, c, h, w) as `Sam.encode` does; the misses are encoded together, and kept."""
        import torch

        entries = [future.result() for future in asked]
        missing = [index for index, entry in enumerate(entries) if entry.features_1chw is None]
        parts = [entry.features_1chw for entry in entries if entry.features_1chw is not None]
        features = [part.to(self._sam.device) for part in parts]
        looked_up = [_LookedUp("hit", self._noted(entry.failure)) for entry in entries]
        self._looked_up += looked_up
        if missing:
            fresh_bchw = self._sam.encode([photos[index] for index in missing])
            self._keep([entries[index].key for index in missing], fresh_bchw, [looked_up[index] for index in missing])
            if len(missing) == len(entries):
                return fresh_bchw
            for place, index in enumerate(missing):
                features.insert(index, fresh_bchw[place : place + 1])
        return features[0] if len(features) == 1 else torch.cat(features)  # torch.cat keeps channels last

    def settle(self) -> list[tuple[CacheOutcome, str | None]]:
        """Wait until all features are kept; return outcome and failure of each photo since the last call, in order."""
        settled: list[tuple[CacheOutcome, str | None]] = []
        for one in self._looked_up:
            unwritten = self._noted(one.write.result()) if one.write else None
            settled.append((one.outcome, one.failure or unwritten))
        self._looked_up.clear()
        return settled

    def _look_up(self, photo_hw3: ByteArray) -> Entry:
        described = json.dumps({**self._identity, "pixels_hwc": photo_hw3.shape}, sort_keys=True)
        digest = hashlib.sha256(described.encode() + b"\n")
        digest.update(photo_hw3.reshape(-1).data)
        key = digest.hexdigest()
        if self._has_given_up:
            return Entry(key)
        try:
            content = read_bytes(self._uri(key))
        except Exception as error:
            is_missing = isinstance(error.__cause__, FileNotFoundError)
            return Entry(key, failure=None if is_missing else _reason(error))
        return Entry(key, unpack(content, key))

    def _keep(self, keys: Sequence[str], features_bchw: torch.Tensor, looked_up: Sequence[_LookedUp]) -> None:
        """Start to write the features of the misses, as far as there is room."""
        has_given_up = self._has_given_up
        kept_bchw = features_bchw if has_given_up else features_bchw.to(self._sam.encoder_dtype).cpu()
        for key, features_chw, one in zip(keys, kept_bchw, looked_up, strict=True):
            one.outcome = "miss"
            if has_given_up:
                continue
            if features_chw.nbytes > self._room_bytes:
                one.outcome = "not_kept"
            else:
                self._room_bytes -= features_chw.nbytes
                one.write = self._threads.submit(self._write, key, features_chw)

    def _write(self, key: str, features_chw: torch.Tensor) -> str | None:
        content = pack(features_chw, key)
        try:
            write_bytes(self._uri(key), content)
        except Exception as error:
            return _reason(error)
        return None

    def _uri(self, key: str) -> str:
        return join(self._folder, key[:2], f"{key}.safetensors")

    def _noted(self, failure: str | None) -> str | None:
        """Count failures in a row, until the cache is given up, and return the failure unchanged."""
        if not self._has_given_up:
            self._failures = self._failures + 1 if failure else 0
        return failure

    @property
    def _has_given_up(self) -> bool:
        return self._failures >= FAILURES_IN_A_ROW


def _reason(error: Exception) -> str:
    """Return an error of any type as text: a filesystem's client may raise what it likes, but the run goes on."""
    return str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"


# --- an object's content ---------------------------------------------------------------------------------------------


def pack(features_chw: torch.Tensor, key: str) -> bytes:
    """Return a safetensors file with one photo's features (c, h, w), on the CPU, and a checksum of them and the key."""
    import torch
    from safetensors.torch import save

    name, laid_out = "features_hwc", features_chw.permute(1, 2, 0)
    if not laid_out.is_contiguous():
        name, laid_out = "features_chw", features_chw.contiguous()
    return save({name: laid_out, "crc32": torch.tensor(_checksum(name, laid_out, key))})


def unpack(content: bytes, key: str) -> torch.Tensor | None:
    """Return the features (1, c, h, w) that `pack` wrote, as float32; None if they are damaged or of another key."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except SafetensorError:
        return None
    checksum = tensors.pop("crc32", None)
    if checksum is None or checksum.numel() != 1 or len(tensors) != 1:
        return None
    ((name, laid_out),) = tensors.items()
    if int(checksum) != _checksum(name, laid_out, key):
        return None
    # Copied to memory with torch's alignment, and with all four strides as they were: both may change rounding.
    features = laid_out.to(torch.float32, copy=True)[None]
    return features.permute(0, 3, 1, 2) if name == "features_hwc" else features


def _checksum(name: str, laid_out: torch.Tensor, key: str) -> int:
    import torch

    described = f"{name} {laid_out.dtype} {tuple(laid_out.shape)} {key}"
    return zlib.crc32(laid_out.reshape(-1).view(torch.uint8).numpy().data, zlib.crc32(described.encode()))
