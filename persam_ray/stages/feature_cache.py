"""Encoded photos, kept in a folder or a bucket: a later run over the same photos skips SAM's encoder.

    cache = open_cache(uri, limit_gb)             driver: is it reachable, is it ours, how much room is left
    encoder = CachedEncoder(sam, fingerprint, cache.share(actors))                        in each actor
    asked = encoder.ask(photos)                   threads look up a table's photos, 16 at most, ahead of the model
    features = encoder.encode(photos[:1], asked[:1])            found, or encoded and sent off to be kept
    counts = encoder.settle()                     all of it is kept now

One object for each photo, 2 MB for ViT-B in bfloat16, 4 MB in float32, 0.6 MB for the demo's SAM:

    <cache>/features-1/3f/3fa9...c2.safetensors   named by the SHA-256 of all that its content follows from

Packing many into one object would save requests, and cost what makes this simple: writers need not know of each other,
and any object may be deleted at any time. The name follows from the pixels of the model frame, not from the photo's
file: they are what the encoder sees, whatever decoded and resized them, and to hash 2 MB takes 2 ms.

Suffixes: b images, h w rows and columns, c channels.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persam_ray.console import console
from persam_ray.data.storage import (
    StorageError,
    absolute,
    base_name,
    check_writable,
    join,
    list_sizes,
    read_bytes,
    write_bytes,
)
from persam_ray.text import public

if TYPE_CHECKING:
    import torch

    from persam_ray.sam.model import Sam
    from persam_ray.types import ByteArray

FORMAT = 1
"""To be raised when objects are laid out in another way, or features of the same weights differ beyond rounding."""

FOLDER = f"features-{FORMAT}"
OWN_FILES = re.compile(rf"{FOLDER}/[0-9a-f]{{2}}/[0-9a-f]{{64}}\.safetensors")
GB = 10**9

THREADS = 8
"""That read and write at once, in each actor."""

FAILURES_IN_A_ROW = 3
"""After so many an actor goes on without the cache: each may have waited for its timeouts."""

COUNTED = "cache_"
"""What names of counts begin with, among the seconds that stages report."""

HITS, MISSES, NOT_KEPT, FAILED = (f"{COUNTED}{name}" for name in ("hits", "misses", "not_kept", "failed: "))


# --- the driver's side -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureCache:
    """A place for features.

    Attributes:
        uri: Folder or prefix, absolute if it is a path.
        room_bytes: How much may be added.
    """

    uri: str
    room_bytes: int

    def share(self, actors: int) -> FeatureCache:
        """Return the cache as each of several actors may fill it."""
        return FeatureCache(self.uri, self.room_bytes // actors)


def open_cache(uri: str | None, limit_gb: float) -> FeatureCache | None:
    """Make sure that a cache can be used, before any work, and see how full it is.

    Nothing is ever removed: what is kept longest is as good as what is newest, and of more photos than there is room
    for, the first ones stay hits in every run.

    Args:
        uri: Value of --feature-cache; None for no cache.
        limit_gb: How large it may become, in 10^9 bytes. Runs that fill it at the same time do not see each other's
            additions.

    Returns:
        None also where the folder holds other files: then it is said and left alone.

    Raises:
        StorageError: It cannot be listed or written.
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


@dataclass(frozen=True)
class CacheUse:
    """What came of the cache in a run.

    Attributes:
        hits: Photos whose features were found.
        misses: Photos that were encoded.
        not_kept: Those of them whose features found no room.
        failure: Why reading or writing failed, if it did.
    """

    hits: int
    misses: int
    not_kept: int
    failure: str | None

    @classmethod
    def of(cls, sums: Mapping[str, float]) -> CacheUse:
        """Read what the stages have reported, added up by name."""
        hits, misses, not_kept = (int(sums.get(name, 0)) for name in (HITS, MISSES, NOT_KEPT))
        failures = [public(name.removeprefix(FAILED)) for name in sums if name.startswith(FAILED)]
        return cls(hits, misses, not_kept, failures[0] if failures else None)

    def tell(self, uri: str) -> None:
        """Say it in one line."""
        line = f"feature cache {public(uri)}: {self.hits} photos found, {self.misses} encoded"
        if self.not_kept:
            line += f"; it is full (--feature-cache-gb), {self.not_kept} were not kept"
        if self.failure:
            line += f"; it failed, and the run went on without: {self.failure}"
        console.print(line)


# --- the actors' side ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A photo's place in the cache, and what was found there.

    Attributes:
        key: SHA-256 of what the features follow from, in hexadecimal digits.
        features_1chw: float32 on the CPU, laid out in memory as the encoder gave them; None for a miss.
        failure: Why it could not be read.
    """

    key: str
    features_1chw: torch.Tensor | None = None
    failure: str | None = None


class CachedEncoder:
    """SAM's encoder behind a cache; for one thread, beside its own.

    A hit is to the bit what the encoder gave when it was kept, memory layout included, on which the order of later sums
    depends. Beyond the key, rounding may depend on the chip, the number of threads and torch's version.

    Args:
        sam: What encodes the misses.
        fingerprint: Of its checkpoint; features of one SAM are never found by another.
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
        self._writes: list[Future[str | None]] = []
        self._failures, self._has_told = 0, False
        self._counts: Counter[str] = Counter()

    def ask(self, photos: Sequence[ByteArray]) -> list[Future[Entry]]:
        """Start to look up photos: each (h, w, 3) uint8 of the model frame, which must stay as they are."""
        return [self._threads.submit(self._look_up, photo) for photo in photos]

    def encode(self, photos: Sequence[ByteArray], asked: Sequence[Future[Entry]]) -> torch.Tensor:
        """Return features (b, c, h, w) as `Sam.encode`; those that were not found are encoded together, and kept."""
        import torch

        entries = [future.result() for future in asked]
        for entry in entries:
            self._note(entry.failure)
        missing = [index for index, entry in enumerate(entries) if entry.features_1chw is None]
        self._counts.update({HITS: len(entries) - len(missing), MISSES: len(missing)})
        parts = [entry.features_1chw for entry in entries if entry.features_1chw is not None]
        features = [part.to(self._sam.device) for part in parts]
        if missing:
            fresh_bchw = self._sam.encode([photos[index] for index in missing])
            self._keep([entries[index].key for index in missing], fresh_bchw)
            if len(missing) == len(entries):
                return fresh_bchw
            for place, index in enumerate(missing):
                features.insert(index, fresh_bchw[place : place + 1])
        return features[0] if len(features) == 1 else torch.cat(features)  # which keeps channels last

    def settle(self) -> dict[str, float]:
        """Wait until all features are kept, and return what to report: counts since the last time, by name."""
        for write in self._writes:
            self._note(write.result())
        self._writes.clear()
        counts = {name: float(count) for name, count in self._counts.items()}
        self._counts.clear()
        return counts

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

    def _keep(self, keys: Sequence[str], features_bchw: torch.Tensor) -> None:
        if self._has_given_up:
            return
        kept_bchw = features_bchw.to(self._sam.encoder_dtype).cpu()
        for key, features_chw in zip(keys, kept_bchw, strict=True):
            if features_chw.nbytes > self._room_bytes:
                self._counts[NOT_KEPT] += 1
            else:
                self._room_bytes -= features_chw.nbytes
                self._writes.append(self._threads.submit(self._write, key, features_chw))

    def _write(self, key: str, features_chw: torch.Tensor) -> str | None:
        content = pack(features_chw, key)
        try:
            write_bytes(self._uri(key), content)
        except Exception as error:
            return _reason(error)
        return None

    def _uri(self, key: str) -> str:
        return join(self._folder, key[:2], f"{key}.safetensors")

    def _note(self, failure: str | None) -> None:
        """Count failures in a row, up to the number that ends it; the first of all is told."""
        if self._has_given_up:
            return
        self._failures = self._failures + 1 if failure else 0
        if failure and not self._has_told:
            self._counts[f"{FAILED}{failure}"] += 1
            self._has_told = True

    @property
    def _has_given_up(self) -> bool:
        return self._failures >= FAILURES_IN_A_ROW


def _reason(error: Exception) -> str:
    """Return what a filesystem's client raised, of whatever type: it is the cache's problem, not the run's."""
    return str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"


# --- an object's content ---------------------------------------------------------------------------------------------


def pack(features_chw: torch.Tensor, key: str) -> bytes:
    """Return a safetensors file of one photo's features (on the CPU), and a checksum of them and the key."""
    import torch
    from safetensors.torch import save

    name, laid_out = "features_hwc", features_chw.permute(1, 2, 0)
    if not laid_out.is_contiguous():
        name, laid_out = "features_chw", features_chw.contiguous()
    return save({name: laid_out, "crc32": torch.tensor(_checksum(name, laid_out, key))})


def unpack(content: bytes, key: str) -> torch.Tensor | None:
    """Return the features (1, c, h, w), float32, of `pack`; None of content that is damaged or of another key."""
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
    # Copied to memory of torch's alignment, and with all four strides as they were: sums may round by either.
    features = laid_out.to(torch.float32, copy=True)[None]
    return features.permute(0, 3, 1, 2) if name == "features_hwc" else features


def _checksum(name: str, laid_out: torch.Tensor, key: str) -> int:
    import torch

    described = f"{name} {laid_out.dtype} {tuple(laid_out.shape)} {key}"
    return zlib.crc32(laid_out.reshape(-1).view(torch.uint8).numpy().data, zlib.crc32(described.encode()))
