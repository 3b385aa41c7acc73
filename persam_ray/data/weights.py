"""Find weights: official ones by name, fetched once into the user's cache and verified by digest; others by URI."""

from dataclasses import dataclass
from pathlib import Path

import pooch

from persam_ray.data.storage import StorageError, absolute, exists, join


@dataclass(frozen=True)
class OfficialWeights:
    """A published file and its SHA-256 in hexadecimal digits, or the first digits if only these are published.

    torchvision publishes the first 8.
    """

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


DEMO_SAM = Path(__file__).parents[1] / "compact_sam" / "compact_sam.safetensors"
"""The bundled small SAM; its model card is in the same folder."""


DETECTOR_FILE = "mask_rcnn.safetensors"
"""Name of the trained Mask R-CNN's file below the output of its training."""


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
"""Weights that Mask R-CNN can start from, by backbone and by the data that they were trained on."""


def locate(name_or_uri: str) -> str:
    """Return the URI of a SAM checkpoint; official weights are first fetched into the user's cache.

    `demo` is the bundled small SAM. Fetching shows a progress bar.

    The cache is the platform's (on Linux `$XDG_CACHE_HOME/persam_ray`, or `~/.cache/persam_ray`).

    Raises:
        StorageError: The weights cannot be fetched, their digest differs, or there is no such file.
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
    """Raise StorageError unless the value of `--start` is a known name or a file that exists.

    The backbone follows from the hardware, so `locate_start` checks later whether the name exists for the backbone.
    """
    names = {"auto", "none"} | {name for _, name in DETECTOR_STARTS}
    if name_or_uri not in names and not exists(name_or_uri):
        raise StorageError(f"--start {name_or_uri}: no such file, nor one of the names {', '.join(sorted(names))}")


def locate_start(backbone: str, name_or_uri: str) -> str | None:
    """Return the URI of the weights that Mask R-CNN starts from; None for `none`.

    Args:
        backbone: A key of `mask_rcnn.model.BACKBONES`.
        name_or_uri: `none`, the name of official weights, or a path or URL. `auto` means `coco` if torchvision has it
            for the backbone, else `imagenet`.

    Raises:
        StorageError: As for `locate`.
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
    """Return the URI of a trained Mask R-CNN; `uri` is its file or the run directory of its training.

    Raises:
        StorageError: There is no such file.
    """
    uri = absolute(uri)
    for candidate in (join(uri, DETECTOR_FILE), uri):
        if exists(candidate) and not (candidate == uri and not uri.endswith(".safetensors")):
            return candidate
    raise StorageError(f"--checkpoint {uri}: neither a .safetensors file nor a folder with {DETECTOR_FILE}")


def _fetch(official: OfficialWeights, option: str) -> str:
    """Return the path of a published file in the user's cache; fetch it if it is missing, and verify its digest."""
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
