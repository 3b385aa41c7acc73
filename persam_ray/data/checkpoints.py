"""Read checkpoints of SAM and of detectors from any path or URL, without running code from the file.

Two formats are read, PyTorch's `.pth` and safetensors. `data.weights` turns the names of official weights into files.
"""

import hashlib
import json
import pickle
import re
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from persam_ray.data.storage import filesystem, is_local, storage_errors
from persam_ray.errors import CheckpointError
from persam_ray.sam.layout import image_size_px
from persam_ray.types import Checkpoint

NUMPY_TYPES = frozenset({"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64"})
"""Tensor types of safetensors files that NumPy has too."""

TENSORS_PER_FILE = 4
"""Tensors of a `.pth` file may take at most this many times the bytes of the file. A file may name a tensor twice, but
with a stride of 0 a few bytes could unfold to terabytes."""


def read_checkpoint(uri: str) -> Checkpoint:
    """Read a `.pth` or safetensors file; its content decides which it is.

    Raises:
        CheckpointError: The file has neither format, is damaged, or holds more than tensors.
        StorageError: The file cannot be read.
    """
    fs, path = filesystem(uri)
    with tempfile.TemporaryDirectory() as folder, storage_errors(uri):
        local = Path(path)
        if not is_local(fs):
            local = Path(folder) / "checkpoint"
            fs.get_file(path, str(local))
        with local.open("rb") as file:
            fingerprint = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        header = _safetensors_header(local)
        tensors = _read_torch(local, uri) if header is None else _read_safetensors(local, header, uri)
    metadata = {str(key): str(value) for key, value in ((header or {}).get("__metadata__") or {}).items()}
    return Checkpoint(tensors, metadata, fingerprint)


def read_sam(uri: str) -> tuple[Checkpoint, tuple[str, int]]:
    """Return a SAM checkpoint, and two facts about it: its fingerprint and the side of its input in pixels.

    Raises:
        CheckpointError: As for `read_checkpoint`, or the layout is unknown.
        StorageError: The file cannot be read.
    """
    checkpoint = read_checkpoint(uri)
    try:
        return checkpoint, (checkpoint.fingerprint, image_size_px(checkpoint))
    except CheckpointError as error:
        raise CheckpointError(f"{uri}: {error}") from error


def _safetensors_header(path: Path) -> dict[str, Any] | None:
    """Return the header of a safetensors file, which describes its tensors; None if the file does not begin as one."""
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8 or file.read(1) != b"{":
            return None
        (size,) = struct.unpack("<Q", start)
        if size > min(path.stat().st_size, 100_000_000):
            return None
        try:
            header: dict[str, Any] = json.loads(b"{" + file.read(size - 1))
        except (ValueError, RecursionError):
            return None
    return header


def _read_safetensors(path: Path, header: Mapping[str, Any], uri: str) -> dict[str, np.ndarray[Any, Any]]:
    from safetensors import SafetensorError

    tensors = [entry for name, entry in header.items() if name != "__metadata__" and isinstance(entry, Mapping)]
    try:
        if {str(entry.get("dtype")) for entry in tensors} <= NUMPY_TYPES:  # without torch, which takes a second to load
            from safetensors.numpy import load_file

            return load_file(path)
        from safetensors.torch import load_file as load_tensors

        return _to_numpy(load_tensors(path))
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:  # the last three: bad shapes, types
        raise CheckpointError(f"{uri}: damaged safetensors file, or of unknown types ({error})") from error


def _read_torch(path: Path, uri: str) -> dict[str, np.ndarray[Any, Any]]:
    import torch

    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith((b"PK", b"\x80")):  # a zip or a pickle
        raise CheckpointError(f"{uri}: neither a PyTorch nor a safetensors checkpoint (it starts with {start!r})")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)  # unpickles tensors, never code
    except pickle.UnpicklingError as error:  # its text recommends weights_only=False
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" (it names {named[1]})" if named else ""
        raise CheckpointError(f"{uri}: holds more than tensors{what}, and is refused") from error
    except Exception as error:  # torch raises many types for a damaged file
        raise CheckpointError(f"{uri}: not a readable PyTorch checkpoint ({str(error).split('. ')[0]})") from error
    for key in ("model", "state_dict"):  # training scripts wrap the weights
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{uri}: holds a {type(content).__name__}, not a mapping of names to tensors")
    tensors = {str(name).removeprefix("module."): value for name, value in content.items() if torch.is_tensor(value)}
    if sum(tensor.nbytes for tensor in tensors.values()) > TENSORS_PER_FILE * path.stat().st_size:
        raise CheckpointError(f"{uri}: its tensors are more than {TENSORS_PER_FILE} times as large as the file")
    return _to_numpy(tensors)


def _to_numpy(tensors: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Convert torch tensors; NumPy has no bfloat16, so that becomes float32."""
    import torch

    return {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        for name, tensor in tensors.items()
    }
