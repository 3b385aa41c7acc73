"""How this process's C library hands out memory: kept for the next call, not returned to the kernel after each.

A layer's activations are tens of megabytes, which glibc maps anew for every operation and unmaps after it, so that the
kernel clears each page again and again: a tenth of ViT-B's time on a CPU (`benchmarks/encoder.py`).
"""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
KEPT_BYTES = 2**31 - 1
GROWTH_BYTES = 2**28


def keep_freed_memory() -> bool:
    """Let freed memory be used again by this process; return whether the C library can do so (glibc can).

    The process then stays as large as it was at its largest.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_TOP_PAD, GROWTH_BYTES))
    return all(library.mallopt(option, value) == 1 for option, value in wanted)
