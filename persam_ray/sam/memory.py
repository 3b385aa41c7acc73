"""How many images a GPU's memory holds: one is encoded, and its memory measured."""

import numpy as np
import torch

from persam_ray.sam.model import Sam

SHARE = 0.5
"""Part of the free memory that the encoder may take: the decoder, large masks and other actors take the rest."""


def images_that_fit(sam: Sam, most: int) -> int:
    """Return how many images SAM can encode at once, from 1 to `most`.

    Args:
        sam: On a GPU.
        most: Largest batch wanted, in images.
    """
    torch.cuda.reset_peak_memory_stats(sam.device)
    before_bytes = torch.cuda.memory_allocated(sam.device)
    sam.encode([np.zeros((sam.image_size_px, sam.image_size_px, 3), dtype=np.uint8)])
    image_bytes = torch.cuda.max_memory_allocated(sam.device) - before_bytes
    free_bytes, _ = torch.cuda.mem_get_info(sam.device)
    return max(1, min(most, int(SHARE * free_bytes / image_bytes)))
