"""Fixtures that several test files share: small seeded models, scenes with coloured shapes, the files beside the
repository."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import mobilenet_v2

from persam_ray.mask_rcnn.model import MaskRcnn
from persam_ray.mask_rcnn.settings import FewShotSettings
from persam_ray.sam.model import Sam
from persam_ray.types import ByteArray, Checkpoint, Reference
from tests.few_photos import tiny_model, train, two_photos
from tests.seeded_weights import fill, official_sam

SHARED = Path(__file__).parents[2] / "shared"


def shared(name: str) -> Path:
    """Return a file that lies beside the repository, or skip the test, saying so."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not beside the repository, in ../shared")
    return path


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    """Rounding follows the number of threads: fix it, so that runs can be compared to the bit."""
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def small_checkpoint() -> Checkpoint:
    """A SAM of 128 pixels with a ViT of two blocks, seeded: 4 million parameters, milliseconds per image."""
    model = official_sam(image_size=128, embed_dim=32, depth=2, global_blocks=(1,), window=3)
    return Checkpoint(fill(model, seed=7), fingerprint="sha256:seeded")


@pytest.fixture(scope="session")
def small_sam(small_checkpoint: Checkpoint) -> Sam:
    return Sam(small_checkpoint, precision="float32")


def scene(height: int, width: int, seed: int = 0) -> ByteArray:
    """Draw a noisy photo with a red disc in its middle."""
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 120, (height, width, 3)).astype(np.uint8)
    image[disc(height, width)] = (220, 30, 30)
    return image


def disc(height: int, width: int) -> np.ndarray:
    """Return the mask of the disc that `scene` draws."""
    y, x = np.mgrid[:height, :width]
    return np.asarray((y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 4) ** 2)


@pytest.fixture(scope="session")
def disc_reference() -> Reference:
    return Reference("disc", scene(90, 120), disc(90, 120))


@pytest.fixture(scope="session")
def shape_detector() -> MaskRcnn:
    model = tiny_model()
    train(model, two_photos(), FewShotSettings(steps=50, learning_rate=1e-3, scale=1.2))
    return model


@pytest.fixture(scope="session")
def classifier() -> Checkpoint:
    """MobileNetV2 as torchvision saves it, random, with statistics of its own."""
    torch.manual_seed(3)
    state = {name: tensor.numpy() for name, tensor in mobilenet_v2().state_dict().items()}
    return Checkpoint({name: array + 0.1 if name.endswith("running_mean") else array for name, array in state.items()})
