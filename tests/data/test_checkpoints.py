import hashlib
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.storage import StorageError
from persam_ray.data.weights import (
    locate,
)
from persam_ray.errors import CheckpointError

WEIGHTS = torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7
HALVES = torch.tensor([0.5, -2.0, 3.140625])  # exact in bfloat16


def saved(path: Path, content: object, **options: bool) -> str:
    torch.save(content, path, **options)
    return str(path)


# --- PyTorch files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_state_dict_is_read_as_arrays(tmp_path: Path, is_zip: bool) -> None:
    uri = saved(tmp_path / "a.pth", {"a.weight": WEIGHTS, "b": HALVES}, _use_new_zipfile_serialization=is_zip)
    checkpoint = read_checkpoint(uri)
    assert sorted(checkpoint.tensors) == ["a.weight", "b"]
    np.testing.assert_array_equal(checkpoint.tensors["a.weight"], WEIGHTS.numpy())
    assert checkpoint.metadata == {}


def test_the_fingerprint_is_the_digest_of_the_file(tmp_path: Path) -> None:
    uri = saved(tmp_path / "a.pth", {"a": WEIGHTS})
    digest = hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()
    assert read_checkpoint(uri).fingerprint == f"sha256:{digest}"


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"a": WEIGHTS}, "epoch": 3},
        {"state_dict": {"a": WEIGHTS, "steps": 5}},
        {"model": {"state_dict": {"a": WEIGHTS}}},
        {"module.a": WEIGHTS},
        {"model": {"module.a": WEIGHTS}},
        {"a": torch.nn.Parameter(WEIGHTS)},
    ],
    ids=["model", "state_dict", "both", "data parallel", "model, data parallel", "parameters"],
)
def test_what_training_scripts_wrap_around_weights_is_taken_off(tmp_path: Path, content: object) -> None:
    tensors = read_checkpoint(saved(tmp_path / "a.pth", content)).tensors
    assert list(tensors) == ["a"]
    np.testing.assert_array_equal(tensors["a"], WEIGHTS.numpy())


def test_bfloat16_becomes_float32_and_float16_stays(tmp_path: Path) -> None:
    uri = saved(tmp_path / "a.pth", {"b": HALVES.bfloat16(), "h": HALVES.half()})
    tensors = read_checkpoint(uri).tensors
    assert (tensors["b"].dtype, tensors["h"].dtype) == (np.dtype(np.float32), np.dtype(np.float16))
    np.testing.assert_array_equal(tensors["b"], HALVES.numpy())


@pytest.mark.parametrize("type_name", ["float32", "float16", "bfloat16", "int64"])
def test_safetensors_are_read_alike_with_torch_and_without(tmp_path: Path, type_name: str) -> None:
    tensor = HALVES.to(getattr(torch, type_name))
    save_file({"a": tensor}, tmp_path / "a.safetensors", metadata={"format": "b"})
    checkpoint = read_checkpoint(str(tmp_path / "a.safetensors"))
    assert checkpoint.metadata == {"format": "b"}
    assert checkpoint.tensors["a"].dtype == np.dtype("float32" if type_name == "bfloat16" else type_name)
    np.testing.assert_array_equal(checkpoint.tensors["a"], tensor.float().numpy())


class Code:
    """Unpickles by running a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_with_code_is_refused_and_the_code_does_not_run(tmp_path: Path, form: str) -> None:
    path, mark = tmp_path / "a.pth", tmp_path / "the code ran"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"a": Code(mark)}, protocol=2))
    else:
        saved(path, {"a": Code(mark)}, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"a\.pth: holds more than tensors") as caught:
        read_checkpoint(str(path))
    assert not mark.exists()
    assert "weights_only" not in str(caught.value)  # torch's own text recommends to run the code
    if form == "zip":
        assert "(it names posix.system)" in str(caught.value)


def test_a_whole_pickled_module_is_refused_by_name(tmp_path: Path) -> None:
    uri = saved(tmp_path / "a.pth", torch.nn.Linear(2, 2))
    with pytest.raises(
        CheckpointError, match=r"holds more than tensors \(it names torch\.nn\.modules\.linear\.Linear\)"
    ):
        read_checkpoint(uri)


@pytest.mark.parametrize("content", [[WEIGHTS], WEIGHTS, 5])
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointError, match=f"holds a {type(content).__name__}, not a mapping of names to tensors"):
        read_checkpoint(saved(tmp_path / "a.pth", content))


ZIP, LEGACY = "zip", "legacy"


@pytest.mark.parametrize(("form", "kept"), [(ZIP, 0.5), (ZIP, 0.99), (LEGACY, 0.2), (LEGACY, 0.9)])
def test_a_truncated_file_is_refused(tmp_path: Path, form: str, kept: float) -> None:
    path = tmp_path / "a.pth"
    saved(path, {"a": WEIGHTS}, _use_new_zipfile_serialization=form == ZIP)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"a\.pth: (not a readable PyTorch checkpoint|holds more than tensors)"):
        read_checkpoint(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"a text of some length\n" * 9,
        b"<!DOCTYPE html><title>404</title>",
        b'{"a": 1}',
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_a_file_of_another_kind_is_named_with_its_beginning(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pth: neither a PyTorch nor a safetensors checkpoint") as caught:
        read_checkpoint(str(tmp_path / "a.pth"))
    assert repr(content[:8]) in str(caught.value)


# --- safetensors -----------------------------------------------------------------------------------------------------


def test_safetensors_are_read_with_their_metadata_whatever_their_name(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"  # the content decides, not the suffix
    metadata = {"format": "persam-ray/compact-sam/1", "image_size": "512"}
    save_file({"a": WEIGHTS, "b": HALVES.bfloat16(), "h": HALVES.half()}, path, metadata=metadata)
    checkpoint = read_checkpoint(str(path))
    assert checkpoint.metadata == metadata
    np.testing.assert_array_equal(checkpoint.tensors["a"], WEIGHTS.numpy())
    np.testing.assert_array_equal(checkpoint.tensors["b"], HALVES.numpy())
    assert checkpoint.tensors["b"].dtype == np.float32
    assert checkpoint.tensors["h"].dtype == np.float16


def safetensors_by_hand(header: bytes, data: bytes = bytes(4)) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def entry(**more: object) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, **more}).encode()


@pytest.mark.parametrize("header", [entry(), entry(__metadata__=None), entry(__metadata__={})])
def test_safetensors_may_be_without_metadata(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.st").write_bytes(safetensors_by_hand(header))
    checkpoint = read_checkpoint(str(tmp_path / "a.st"))
    assert checkpoint.metadata == {}
    assert checkpoint.tensors["a"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (safetensors_by_hand(entry(), b""), "damaged safetensors"),
        (safetensors_by_hand(entry())[:30], "neither"),
        (safetensors_by_hand(b'{"a":' + b"[" * 100_000), "neither"),
        (safetensors_by_hand(b'{"\xff": 1}'), "neither"),
        (struct.pack("<Q", 2**60) + entry(), "neither"),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.st").write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(str(tmp_path / "a.st"))


# --- places ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_may_lie_at_any_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "my #1 [x].pth", {"a": WEIGHTS})
    monkeypatch.chdir(tmp_path)
    for uri in ("my #1 [x].pth", str(tmp_path / "my #1 [x].pth"), f"file://{tmp_path}/my #1 [x].pth"):
        assert locate(uri) == str(tmp_path / "my #1 [x].pth")  # absolute: a worker reads it
        assert list(read_checkpoint(uri).tensors) == ["a"]


def test_a_local_file_of_the_same_path_does_not_stand_in_for_one_elsewhere(tmp_path: Path) -> None:
    here = saved(tmp_path / "a.pth", {"wrong": WEIGHTS})
    with pytest.raises(StorageError, match=r"memory://.*/a\.pth: not found"):
        read_checkpoint(f"memory://{here}")


def test_a_name_that_is_neither_a_file_nor_official_is_told_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="vit_x: no such checkpoint file, nor one of the names vit_b, vit_l, vit_h"):
        locate("vit_x")
    with pytest.raises(StorageError, match="directory"):
        read_checkpoint(str(tmp_path))
