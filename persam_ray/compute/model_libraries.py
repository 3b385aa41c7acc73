"""The libraries of the models, loaded without torch's compiler: a worker starts in 2 seconds instead of 3."""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"


def load_libraries() -> None:
    """Import torch, torchvision, timm and segment_anything.

    torchvision and timm load the compiler for the sake of two decorators that mark what it should leave alone. While
    they are imported, stand-ins take their place; later, `torch.compile` finds the real one.
    """
    import torch  # noqa: F401 - before the stand-ins: it may look for the real one

    if COMPILER in sys.modules:
        return
    with _stand_in(), contextlib.suppress(ImportError, AttributeError):  # other versions: imported when needed
        import segment_anything  # noqa: F401 - imported for those that come later
        import timm  # noqa: F401
        import torchvision.ops  # noqa: F401


@contextlib.contextmanager
def _stand_in() -> Iterator[None]:
    compiler, utils = ModuleType(COMPILER), ModuleType(f"{COMPILER}.utils")
    compiler.__dict__.update(__path__=[], utils=utils, disable=_disable)
    utils.__dict__.update(is_compile_supported=_is_compile_supported)
    names = {COMPILER: compiler, f"{COMPILER}.utils": utils}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name, module in names.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _disable(function: Any = None, *_: Any, **__: Any) -> Any:
    """Leave a function as it is: torch.compiler.disable, in both of its forms."""
    return _disable if function is None else function


def _is_compile_supported(device: Any) -> Any:
    """Ask the compiler whether it serves a device; torchvision does, should it ever compile its own operators."""
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device)
