"""Head CTs as the local classifier's hosts: with and without artificial blood, and by whom a network is judged.

Planting blood takes longer than a training step, so every head is planted into a few times in advance. Each network of
an ensemble leaves out its share of the patients; what it makes of the normal ones among them is what is usual.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from triage.manifest import Local
from workers.flows.local_classifier import LocalClassifier, planes
from workers.flows.local_volume import SliceStandard
from workers.lab.image_set import ImageSet, Pixels, share
from workers.lab.planted_blood import Head, with_blood, with_dots
from workers.lab.presets import LocalRecipe

#: A slice is drawn as a bleeding one if so many of its voxels are at least half blood.
LEAST_BLEEDING = 3
_DOTTED = 0.3
_ELSEWHERE = 0.4


class Heads:
    """Draws pairs of slices, without blood and with it, from the two sets alike.

    Parameters
    ----------
    recipe : LocalRecipe
        With the grid's spacing.
    normal, mixture : ImageSet
        Heads on the bundle's grid.
    rng : numpy.random.Generator
        Draws everything.
    """

    def __init__(self, recipe: LocalRecipe, normal: ImageSet, mixture: ImageSet, rng: np.random.Generator) -> None:
        self.spec, self.rng = recipe.spec, rng
        made: dict[str, list[_Planted]] = {}
        self.sets: list[list[_Planted]] = []
        for images in (normal, mixture):
            for key, pixels in zip(images.keys, images.pixels, strict=True):
                if key not in made:
                    made[key] = _plantings(pixels, recipe, rng)
            self.sets.append([one for key in images.keys for one in made[key]])

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return pairs: slices with their neighbours without and with blood, (N, 2 k + 1, h, w); where it is,
        (N, 1, h, w), and whether the host is of the mixture, (N,); float32.

        Raises
        ------
        ValueError
            If blood could be planted into none of a set's heads.
        """
        if not all(self.sets):
            raise ValueError("no head has a brain to plant blood into")
        of_mixture = self.rng.uniform(size=count) < 0.5
        rows: tuple[list[Tensor], ...] = ([], [], [])
        for side in of_mixture:
            heads = self.sets[int(side)]
            clean, made, place, bleeding, shown = heads[self.rng.integers(len(heads))]
            number = int(self.rng.choice(bleeding))
            # Often not its own: the skull's base and top, into which nothing is planted, must be known as well.
            other = int(self.rng.choice(shown)) if self.rng.uniform() < _ELSEWHERE else number
            rows[0].append(_around(clean, other, self.spec))
            rows[1].append(_around(made, number, self.spec))
            rows[2].append(torch.from_numpy(place[number].astype(np.float32)).unsqueeze(0))
        clean_ones, planted, places = (torch.stack(found) for found in rows)
        return clean_ones, planted, places, torch.from_numpy(of_mixture).float()


Small = npt.NDArray[np.float16]
_Numbers = npt.NDArray[np.intp]
_Planted = tuple[Small, Small, Small, _Numbers, _Numbers]
"""A head without and with blood, where it is, on the network's grid, (D, h, w); which slices bleed or show brain."""


def _plantings(pixels: Pixels, recipe: LocalRecipe, rng: np.random.Generator) -> list[_Planted]:
    head = Head.of(pixels, recipe.spacing_mm)
    found: list[_Planted] = []
    for _ in range(recipe.plantings):
        made, place = with_blood(head, rng)
        clean = head.values
        if rng.uniform() < _DOTTED:
            # In both of a pair, so that a dot is no sign of blood.
            dotted = with_dots(head, head.values, rng)
            clean, made = dotted, np.maximum(made, dotted)
        bleeding = np.flatnonzero((place > 0.5).sum((1, 2)) >= LEAST_BLEEDING)
        if len(bleeding):
            clean_one, made_one, where = (_resized(volume, recipe.spec) for volume in (clean, made, place))
            found.append((clean_one, made_one, where, bleeding, head.shown))
    return found


def _resized(volume: npt.NDArray[np.float32], spec: Local) -> Small:
    small: Small = planes(volume, spec, torch.device("cpu"))[:, 0].numpy().astype(np.float16)
    return small


def _around(volume: Small, number: int, spec: Local) -> Tensor:
    reach = spec.neighbours
    rows = np.clip(np.arange(number - reach, number + reach + 1), 0, len(volume) - 1)
    return torch.from_numpy(volume[rows].astype(np.float32))


def folds(normal: ImageSet, mixture: ImageSet, spec: Local) -> dict[str, int]:
    """Return which network of an ensemble leaves out which patient: normals are spread evenly, and so is the rest.

    Where there is one network, or fewer normal patients than two for each, nobody is left out: an empty dict.
    """
    well = set(normal.patients)
    if spec.members == 1 or len(well) < 2 * spec.members:
        return {}
    found: dict[str, int] = {}
    for patients in (well, set(mixture.patients) - well):
        ordered = sorted(patients, key=lambda patient: share(patient, "local fold"))
        found |= {patient: rank % spec.members for rank, patient in enumerate(ordered)}
    return found


def without(images: ImageSet, member: int, left_out: dict[str, int]) -> ImageSet:
    """Return the images that a network is trained on."""
    return images.select([left_out.get(patient) != member for patient in images.patients])


def slice_standard(
    spec: Local, tensors: dict[str, Tensor], normal: ImageSet, left_out: dict[str, int], device: torch.device
) -> SliceStandard:
    """Return what is usual of normals' slices, by network: of those that it left out, or of all where it left none out.

    Parameters
    ----------
    spec : Local
        The bundle's.
    tensors : dict of str to torch.Tensor
        Of all networks.
    normal : ImageSet
        The normals among which are those that were trained on.
    left_out : dict of str to int
        See `folds`.
    device : torch.device
        Where to compute.
    """
    measure = LocalClassifier(spec, tensors, device)
    readings = [measure.reading(image)[0].by_slice(spec.top) for image in normal.pixels]
    by_member = []
    for member in range(spec.members):
        pairs = zip(readings, normal.patients, strict=True)
        chosen = [one[member] for one, patient in pairs if not left_out or left_out[patient] == member]
        by_member.append(np.stack(chosen))
    return SliceStandard.of(by_member)
