"""What goes to a device and comes back is what it was. Page-locked memory needs a GPU's driver: not tried here."""

import numpy as np
import torch

from persam_ray.compute.transfers import Download, upload

CPU = torch.device("cpu")


def test_pixels_go_to_the_device_as_a_copy_of_their_own() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    pixels.flags.writeable = False  # as those of a table are
    there = upload(pixels, CPU)
    there[0, 0, 0] = 99
    assert (there.shape, there.dtype) == ((2, 4, 3), torch.uint8)
    assert pixels[0, 0, 0] == 0
    np.testing.assert_array_equal(there[1].numpy(), pixels[1])


def test_tensors_come_back_in_their_order_and_are_let_go_of() -> None:
    numbers, mask = torch.tensor([0.5, 0.25]), torch.tensor([[True, False]])
    download = Download([numbers, mask])
    assert [tensor.tolist() for tensor in download.wait()] == [[0.5, 0.25], [[True, False]]]
    assert list(download.wait()) == []
