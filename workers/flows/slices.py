"""An image as both classifiers take it: slices, smoothed within themselves, on the device."""

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor


def smoothed_slices(
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32], sigma: float, device: torch.device
) -> Tensor:
    """Return the slices of one image, (H, W) or (D, H, W), smoothed by ``sigma`` pixels: float32, (D, H, W)."""
    grey = pixels[None] if pixels.ndim == 2 else pixels
    if sigma:
        grey = ndimage.gaussian_filter(grey.astype(np.float32), (0, sigma, sigma))
    return torch.from_numpy(np.array(grey, np.float32)).to(device)  # a copy: what a message brings can't be written to
