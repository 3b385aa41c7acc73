"""The feature cache on a real folder: hits to the bit, wrong ones never, damage and failure survived."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from torch import Tensor

from persam_ray.compute.precision import Precision
from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.storage import read_bytes
from persam_ray.data.weights import locate
from persam_ray.images import resize_longest_side
from persam_ray.runs.effort import CacheOutcome, CacheUse
from persam_ray.sam import model
from persam_ray.sam.model import Sam
from persam_ray.stages import cached_encoder
from persam_ray.stages.cached_encoder import FAILURES_IN_A_ROW, CachedEncoder, pack, unpack
from persam_ray.stages.feature_cache import GB, FeatureCache, open_cache
from persam_ray.types import ByteArray, Checkpoint
from tests.conftest import scene

KEY = "0" * 64


def photos_of(sam: Sam, count: int = 3) -> list[ByteArray]:
    return [resize_longest_side(scene(60, 80 + 9 * seed, seed), sam.image_size_px) for seed in range(count)]


@pytest.fixture
def photos(small_sam: Sam) -> list[ByteArray]:
    return photos_of(small_sam)


def run(
    place: str | Path, sam: Sam, photos: Sequence[ByteArray], *, room: int = GB, fingerprint: str = "sha256:a"
) -> tuple[list[Tensor], list[CacheOutcome]]:
    """Encode photos one at a time as an actor does, and return features, and what came of each photo."""
    encoder = CachedEncoder(sam, fingerprint, FeatureCache(str(place), room))
    asked = encoder.ask(photos)
    features = [encoder.encode([photo], [entry]) for photo, entry in zip(photos, asked, strict=True)]
    return features, [outcome for outcome, _ in encoder.settle()]


def objects(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# --- hits and misses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "auto", "bfloat16"])
@pytest.mark.parametrize("name", ["vit", "convolutional"])
def test_a_hit_is_what_was_encoded_to_the_bit_and_laid_out_alike_in_memory(
    name: str, precision: Precision, small_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam = Sam(small_checkpoint if name == "vit" else read_checkpoint(locate("demo")), precision=precision)
    photos = photos_of(sam)
    expected = [sam.encode([photo]) for photo in photos]
    missed, outcomes = run(tmp_path, sam, photos)
    assert outcomes == ["miss"] * 3
    size = expected[0].nelement() * sam.encoder_dtype.itemsize
    assert all(size < path.stat().st_size < size + 500 for path in objects(tmp_path))  # the encoder's type is stored
    monkeypatch.setattr(sam, "encode", None)
    found, outcomes = run(tmp_path, sam, photos)
    assert outcomes == ["hit"] * 3
    for kept in (missed, found):
        for features, exact in zip(kept, expected, strict=True):
            assert torch.equal(features, exact)
            assert (features.dtype, features.stride()) == (exact.dtype, exact.stride())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_batch_takes_its_hits_and_encodes_the_others_in_their_places(
    precision: Precision, small_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    sam = Sam(small_checkpoint, precision=precision)
    photos = photos_of(sam, 4)
    run(tmp_path, sam, [photos[1], photos[3]])
    encoder = CachedEncoder(sam, "sha256:a", FeatureCache(str(tmp_path), GB))
    features = encoder.encode(photos, encoder.ask(photos))
    assert encoder.settle() == [("miss", None), ("hit", None), ("miss", None), ("hit", None)]
    expected = sam.encode(photos)
    assert features.stride() == expected.stride()
    torch.testing.assert_close(features, expected, atol=2e-2 if precision == "bfloat16" else 1e-5, rtol=0)


def test_nothing_is_found_that_another_sam_precision_or_photo_has_left(
    small_checkpoint: Checkpoint, small_sam: Sam, photos: list[ByteArray], tmp_path: Path
) -> None:
    photo = np.zeros((64, 128, 3), np.uint8)
    run(tmp_path, small_sam, [photo])
    other_precision = Sam(small_checkpoint, precision="bfloat16")
    assert run(tmp_path, small_sam, [photo], fingerprint="sha256:b")[1] == ["miss"]
    assert run(tmp_path, other_precision, [photo])[1] == ["miss"]
    assert run(tmp_path, small_sam, [photo.reshape(128, 64, 3)])[1] == ["miss"]  # the same bytes
    assert run(tmp_path, small_sam, photos)[1] == ["miss"] * 3
    assert run(tmp_path, small_sam, [photo])[1] == ["hit"]


def test_folded_batch_norms_are_another_encoding_though_both_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = read_checkpoint(locate("demo"))
    plain = Sam(checkpoint, precision="float32")
    monkeypatch.setattr(model, "compute_dtype", lambda *_: torch.bfloat16)  # as on a chip that is fast in it
    folded = Sam(checkpoint, precision="auto")
    assert (plain.encoder_dtype, folded.encoder_dtype) == (torch.float32, torch.float32)
    assert plain.encoding != folded.encoding


def test_a_checkpoint_without_a_fingerprint_is_refused(small_sam: Sam, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a fingerprint"):
        run(tmp_path, small_sam, [], fingerprint="")


# --- damage, deletion, two writers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", ["emptied", "halved", "made longer", "a bit flipped", "another file", "another photo's"]
)
def test_a_damaged_object_is_a_miss_and_is_replaced(
    damage: str, small_sam: Sam, photos: list[ByteArray], tmp_path: Path
) -> None:
    run(tmp_path, small_sam, photos[:2])
    first, second = objects(tmp_path)
    content = first.read_bytes()
    damaged = {
        "emptied": b"",
        "halved": content[: len(content) // 2],
        "made longer": content + b"0",
        "a bit flipped": content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:],
        "another file": b"not what it says\n" * 1000,
        "another photo's": second.read_bytes(),
    }
    first.write_bytes(damaged[damage])
    features, outcomes = run(tmp_path, small_sam, photos[:2])
    assert sorted(outcomes) == ["hit", "miss"]
    assert all(torch.equal(one, small_sam.encode([photo])) for one, photo in zip(features, photos[:2], strict=True))
    assert first.read_bytes() == content


def test_other_tensors_in_a_safetensors_file_are_no_features() -> None:
    from safetensors.torch import save

    assert unpack(save({"weight": torch.zeros(3)}), KEY) is None
    assert unpack(save({"crc32": torch.tensor(0)}), KEY) is None
    assert unpack(save({"crc32": torch.zeros(2), "features_hwc": torch.zeros(3)}), KEY) is None
    content = pack(torch.zeros(2, 3, 4), KEY)
    assert unpack(content, KEY) is not None
    assert unpack(content, "1" * 64) is None
    assert unpack(content.replace(b"features_chw", b"features_hwc"), KEY) is None


def test_a_cache_that_is_deleted_while_it_is_read_is_filled_again(
    small_sam: Sam, photos: list[ByteArray], tmp_path: Path
) -> None:
    run(tmp_path / "cache", small_sam, photos)
    encoder = CachedEncoder(small_sam, "sha256:a", FeatureCache(str(tmp_path / "cache"), GB))
    found = []
    for photo in photos:
        encoder.encode([photo], encoder.ask([photo]))
        found.append([outcome for outcome, _ in encoder.settle()])
        if len(found) < 3:
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert found == [["hit"], ["miss"], ["miss"]]
    assert run(tmp_path / "cache", small_sam, photos[2:])[1] == ["hit"]


def test_several_that_fill_a_cache_at_once_leave_whole_objects_only(
    small_sam: Sam, photos: list[ByteArray], tmp_path: Path
) -> None:
    writers = [Thread(target=run, args=(tmp_path, small_sam, photos)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(objects(tmp_path)) == 3
    assert run(tmp_path, small_sam, photos)[1] == ["hit"] * 3


# --- room, and failure on the way ------------------------------------------------------------------------------------


def test_what_finds_no_room_is_counted_and_not_kept(small_sam: Sam, photos: list[ByteArray], tmp_path: Path) -> None:
    size = small_sam.encode(photos[:1]).nbytes
    assert run(tmp_path, small_sam, photos, room=2 * size)[1] == ["miss", "miss", "not_kept"]
    cache = open_cache(str(tmp_path), 2 * size / GB)
    assert cache == FeatureCache(str(tmp_path), 0)
    assert run(tmp_path, small_sam, photos, room=0)[1] == ["hit", "hit", "not_kept"]


def test_actors_share_the_room_that_is_left(small_sam: Sam, photos: list[ByteArray], tmp_path: Path) -> None:
    run(tmp_path, small_sam, photos)
    used = sum(path.stat().st_size for path in objects(tmp_path))
    cache = open_cache(str(tmp_path), 1.0)
    assert cache is not None
    assert cache.room_bytes == GB - used
    assert cache.share(3) == replace(cache, room_bytes=(GB - used) // 3)


def test_a_cache_that_fails_costs_no_photo_and_is_given_up(
    small_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder was")
    photos = photos_of(small_sam, 6)
    encoder = CachedEncoder(small_sam, "sha256:a", FeatureCache(str(tmp_path / "cache"), GB))
    read: list[str] = []

    def counting(uri: str) -> bytes:
        read.append(uri)
        return read_bytes(uri)

    monkeypatch.setattr(cached_encoder, "read_bytes", counting)
    settled: list[tuple[CacheOutcome, str | None]] = []
    for photo in photos:
        assert torch.equal(encoder.encode([photo], encoder.ask([photo])), small_sam.encode([photo]))
        settled += encoder.settle()
    assert len(read) <= FAILURES_IN_A_ROW
    use = CacheUse.of(*zip(*settled, strict=True))
    assert (use.hits, use.misses) == (0, 6)
    assert use.failure is not None
    assert str(tmp_path / "cache") in use.failure


def test_a_single_failure_is_told_and_the_cache_used_on(
    small_sam: Sam, photos: list[ByteArray], tmp_path: Path
) -> None:
    run(tmp_path, small_sam, photos)
    first = objects(tmp_path)[0]
    first.unlink()
    first.mkdir()  # neither read nor replaced
    encoder = CachedEncoder(small_sam, "sha256:a", FeatureCache(str(tmp_path), GB))
    encoder.encode(photos, encoder.ask(photos))
    settled = encoder.settle()
    assert sorted(outcome for outcome, _ in settled) == ["hit", "hit", "miss"]
    assert [failure is not None for outcome, failure in settled] == [outcome == "miss" for outcome, _ in settled]
