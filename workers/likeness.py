"""How alike two images are, whatever their brightness and contrast."""

import numpy as np
import numpy.typing as npt


def correlation(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> float:
    """Return the correlation of two images of one shape, -1 to 1; 0 where one of them is constant."""
    a, b = ((image - image.mean()).ravel() for image in (one, other))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0
