"""Checkpoints of SAM and detectors: official weights fetched once and verified by digest, or any file at any URL; read
without running code from it.
"""

import hashlib
import json
import pickle
import re
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pooch

from persam_ray.checkpoint_layout import image_size_px
from persam_ray.storage import StorageError, absolute, exists, filesystem, is_local, join, storage_errors
from persam_ray.types import Checkpoint, CheckpointError


@dataclass(frozen=True)
class OfficialWeights:
    """A published file and its digest, or the first digits of it that its publisher states (torchvision: 8)."""

    url: str
    sha256: str


OFFICIAL = {
    "vit_b": OfficialWeights(
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": OfficialWeights(
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": OfficialWeights(
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    "mobile_sam": OfficialWeights(
        "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt",
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    ),
}

DEMO_SAM = Path(__file__).parent / "demo" / "compact_sam.safetensors"
"""The small SAM that comes along; its card lies beside it."""

DETECTOR_FILE = "mask_rcnn.safetensors"
"""What a training run leaves below its output."""

TORCHVISION = "https://download.pytorch.org/models"
DETECTOR_STARTS = {
    ("resnet50_fpn", "coco"): OfficialWeights(f"{TORCHVISION}/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", "bf2d0c1e"),
    ("resnet50_fpn_v2", "coco"): OfficialWeights(
        f"{TORCHVISION}/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", "73cbd019"
    ),
    ("resnet50_fpn", "imagenet"): OfficialWeights(f"{TORCHVISION}/resnet50-11ad3fa6.pth", "11ad3fa6"),
    ("resnet50_fpn_v2", "imagenet"): OfficialWeights(f"{TORCHVISION}/resnet50-11ad3fa6.pth", "11ad3fa6"),
    ("mobilenet_v2", "imagenet"): OfficialWeights(f"{TORCHVISION}/mobilenet_v2-7ebf99e0.pth", "7ebf99e0"),
}
"""Weights that Mask R-CNN starts from, by backbone and what they were trained on."""


NUMPY_TYPES = frozenset({"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64"})
"""Of tensors in a safetensors file, those that NumPy has."""

TENSORS_PER_FILE = 4
"""A file may name a tensor twice, but no honest one unfolds a few bytes to terabytes, as a stride of 0 can."""


def locate(name_or_uri: str) -> str:
    """Return the URI of a checkpoint: official names are fetched into the user's cache first, with a progress bar.

    `demo` is the small SAM that comes along.

    The cache is the platform's (on Linux `$XDG_CACHE_HOME/persam_ray`, or `~/.cache/persam_ray`).

    Raises:
        StorageError: It cannot be fetched, its digest differs, or there is no such file.
    """
    official = OFFICIAL.get(name_or_uri)
    if official is not None:
        return _fetch(official, f"--sam {name_or_uri}")
    if name_or_uri == "demo":
        return str(DEMO_SAM)
    if not exists(name_or_uri):
        names = ", ".join([*OFFICIAL, "demo"])
        raise StorageError(f"{name_or_uri}: no such checkpoint file, nor one of the names {names}")
    return absolute(name_or_uri)


def check_start(name_or_uri: str) -> None:
    """Raise StorageError unless an option for start weights is a name or a file that exists.

    Whether there are weights of that name is known with the backbone, which follows from the hardware.
    """
    names = {"auto", "none"} | {name for _, name in DETECTOR_STARTS}
    if name_or_uri not in names and not exists(name_or_uri):
        raise StorageError(f"--start {name_or_uri}: no such file, nor one of the names {', '.join(sorted(names))}")


def locate_start(backbone: str, name_or_uri: str) -> str | None:
    """Return the URI of the weights that Mask R-CNN starts from; None for `none`.

    Args:
        backbone: One of mask_rcnn.BACKBONES.
        name_or_uri: `auto` is `coco` where torchvision has it for the backbone, else `imagenet`.

    Raises:
        StorageError: As `locate`.
    """
    if name_or_uri == "none":
        return None
    names = [name for own, name in DETECTOR_STARTS if own == backbone]
    official = DETECTOR_STARTS.get((backbone, names[0] if name_or_uri == "auto" else name_or_uri))
    if official is not None:
        return _fetch(official, f"--start {name_or_uri}")
    if not exists(name_or_uri):
        allowed = ", ".join([*names, "none"])
        raise StorageError(f"--start {name_or_uri}: no such file, nor one of the names {allowed} ({backbone})")
    return absolute(name_or_uri)


def locate_detector(uri: str) -> str:
    """Return the URI of a trained Mask R-CNN, given itself or the run directory of its training.

    Raises:
        StorageError: There is none.
    """
    uri = absolute(uri)
    for candidate in (join(uri, DETECTOR_FILE), uri):
        if exists(candidate) and not (candidate == uri and not uri.endswith(".safetensors")):
            return candidate
    raise StorageError(f"--checkpoint {uri}: neither a .safetensors file nor a folder with {DETECTOR_FILE}")


def _fetch(official: OfficialWeights, option: str) -> str:
    """Return the path of a published file in the user's cache, fetched if it is not there, its digest verified."""
    is_whole = len(official.sha256) == 64
    try:
        path: str = pooch.retrieve(
            official.url,
            known_hash=f"sha256:{official.sha256}" if is_whole else None,
            fname=official.url.rsplit("/", 1)[-1],
            path=pooch.os_cache("persam_ray"),
            progressbar=True,
        )
        digest = official.sha256 if is_whole else pooch.file_hash(path, alg="sha256")
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong digest is a ValueError
        raise StorageError(f"{option}: {official.url} cannot be fetched ({error})") from error
    if not digest.startswith(official.sha256):
        Path(path).unlink()
        raise StorageError(f"{option}: {official.url} has the wrong content (its SHA-256 is {digest})")
    return path


def read_checkpoint(uri: str) -> Checkpoint:
    """Read a `.pth` or safetensors file; its content decides which it is.

    Raises:
        CheckpointError: It is neither, or holds more than tensors.
        StorageError: It cannot be read.
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
    """Read a SAM checkpoint; beside it, its fingerprint and the side of its input in pixels.

    Raises:
        CheckpointError: As `read_checkpoint`, or its layout is unknown.
        StorageError: It cannot be read.
    """
    checkpoint = read_checkpoint(uri)
    try:
        return checkpoint, (checkpoint.fingerprint, image_size_px(checkpoint))
    except CheckpointError as error:
        raise CheckpointError(f"{uri}: {error}") from error


def _safetensors_header(path: Path) -> dict[str, Any] | None:
    """Return what a safetensors file says of its tensors; None if it does not begin as one."""
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
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:  # the last three: of shapes and types
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
    except Exception as error:  # of a damaged file torch raises many types
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
