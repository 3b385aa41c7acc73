"""Starting a worker: what it loads, and what it leaves for later."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

BEGIN = """
import sys
import numpy as np
from persam_ray.model_libraries import load_libraries

load_libraries()
"""


def loaded(then: str) -> str:
    """Return what a fresh process prints."""
    command = [sys.executable, "-c", BEGIN + then]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def test_a_photo_is_segmented_without_torchs_compiler() -> None:
    then = """
from persam_ray.checkpoints import locate, read_checkpoint
from persam_ray.persam import make_target, segment
from persam_ray.sam import Sam
from persam_ray.types import Reference

sam = Sam(read_checkpoint(locate("demo")))
photo_hw3, mask_hw = np.zeros((384, 256, 3), np.uint8), np.zeros((384, 256), np.bool_)
mask_hw[100:250, 50:200] = True
target = make_target(sam, [Reference("a", photo_hw3, mask_hw)])
segment(sam, sam.encode([photo_hw3]), [sam.frame((384, 256))], [target]).wait()
print(*sorted({"timm", "torchvision", "torch._dynamo"} & sys.modules.keys()))
"""
    assert loaded(then) == "timm torchvision"


def test_what_is_compiled_later_finds_the_compiler() -> None:
    then = """
import torch
from torchvision.ops.roi_align import is_compile_supported
assert is_compile_supported("cpu") in (True, False)
import torch._dynamo
print(torch._dynamo.config.cache_size_limit > 0, torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
"""
    assert loaded(then) == "True 2.0"


def test_where_the_compiler_is_loaded_already_nothing_takes_its_place() -> None:
    then = (
        "import torch._dynamo; before = torch._dynamo; load_libraries(); print(sys.modules['torch._dynamo'] is before)"
    )
    assert loaded(then) == "True"
