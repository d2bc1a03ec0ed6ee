"""A set of training images, and a lottery that always draws the same."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import DisjointSet

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageSet:
    """Images on a bundle's grid.

    Attributes
    ----------
    pixels : numpy.ndarray
        uint8, (N, …).
    keys : tuple of str
        One name an image, the same whenever the same image is read again.
    patients : tuple of str
        Whose image it is; images of one patient never fall into different splits.
    """

    pixels: Pixels
    keys: tuple[str, ...]
    patients: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def looks(self) -> list[str]:
        """One hash an image, the same for the same pixels on the grid, be the file another one."""
        return [hashlib.sha256(pixels.tobytes()).hexdigest()[:24] for pixels in self.pixels]

    def select(self, wanted: Sequence[bool]) -> Self:
        """Return the images where ``wanted`` is true."""
        index = [i for i, want in enumerate(wanted) if want]
        return type(self)(
            self.pixels[index], tuple(self.keys[i] for i in index), tuple(self.patients[i] for i in index)
        )

    def without_patients(self, patients: frozenset[str]) -> Self:
        """Return the images of everybody else."""
        return self.select([patient not in patients for patient in self.patients])

    def divided(self, share_of_first: float, salt: str) -> tuple[Self, Self]:
        """Return two sets, no patient in both; whose is where depends on the patient and ``salt`` alone."""
        first = [share(patient, salt) < share_of_first for patient in self.patients]
        return self.select(first), self.select([not one for one in first])

    @classmethod
    def union(cls, sets: Sequence[Self]) -> Self:
        """Return all images of ``sets``, each once."""
        seen: dict[str, tuple[Pixels, str]] = {}
        for images in sets:
            for pixels, key, patient in zip(images.pixels, images.keys, images.patients, strict=True):
                seen.setdefault(key, (pixels, patient))
        stacked = np.stack([pixels for pixels, _ in seen.values()])
        return cls(stacked, tuple(seen), tuple(patient for _, patient in seen.values()))


def linked(sets: Sequence[ImageSet]) -> list[ImageSet]:
    """Return the sets with one name for each patient: who has the same image under two names is one patient.

    A copy of a file in another folder, or a picture that was saved anew, is the same image, but another patient may be
    made of it; without this, the copy could be trained on in one set and be calibrated on in the other.
    """
    names = DisjointSet(name for images in sets for name in images.patients)
    owner: dict[str, str] = {}
    for images in sets:
        for key, look, patient in zip(images.keys, images.looks, images.patients, strict=True):
            for known in (key, look):
                names.merge(owner.setdefault(known, patient), patient)
    one = {name: min(subset) for subset in names.subsets() for name in subset}
    return [ImageSet(images.pixels, images.keys, tuple(one[name] for name in images.patients)) for images in sets]


def share(text: str, salt: str) -> float:
    """Return a number in [0, 1) that depends on ``text`` and ``salt`` alone."""
    digest = hashlib.sha256(f"{salt}\0{text}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48
