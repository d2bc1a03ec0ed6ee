"""The RSNA Pneumonia Detection Challenge's folder as the paper's three sets (Shibata et al., table 1).

The layout is that of the challenge's download: ``stage_2_detailed_class_info.csv`` with the columns ``patientId`` and
``class``, and ``stage_2_train_images/PATIENTID.dcm``. A patient has as many rows as boxes, all of one class.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from triage.errors import ConfigurationError
from triage.manifest import DataSource, Preprocessing
from workers.images.sources import CXR
from workers.lab.acquisition import Loaded, of_found
from workers.lab.evaluation.labels import NORMAL_LABEL, Row
from workers.lab.folders import Found, hashed, read_each
from workers.lab.image_set import share
from workers.lab.table import read_table

log = structlog.get_logger(__name__)

CLASSES = "stage_2_detailed_class_info.csv"
BOXES = "stage_2_train_labels.csv"
IMAGES = "stage_2_train_images"
OPACITY = "lung opacity"
OTHER = "no lung opacity / not normal"
LABELS = {"normal": NORMAL_LABEL, OPACITY: OPACITY, OTHER: OTHER}

# Table 1: 7,808 normals, of which 6,529 are in the mixture, too; the mixture has 6,553 normals and 6,631 others.
TABLE_1_NORMAL = {"shared": 6529, "normal": 7808 - 6529, "mixture": 6553 - 6529, "test": 1358}
TABLE_1_OTHERS = {"mixture": 6631, "test": 13863}


NIH = DataSource(
    name="NIH ChestX-ray14 (adult frontal chest X-rays)",
    licence="free use with credit and citation",
    credit="NIH Clinical Center; Wang et al., ChestX-ray8, CVPR 2017",
)
#: Whose the challenge's images and labels are.
SOURCES = (
    NIH,
    DataSource(
        name="RSNA Pneumonia Detection Challenge 2018",
        licence="research, non-commercial",
        credit="Shih et al., Radiology: Artificial Intelligence 2019;1:e180041",
    ),
)


@dataclass(frozen=True)
class RsnaImage:
    """One radiograph of the challenge."""

    patient_id: str
    label: str
    path: Path


@dataclass(frozen=True)
class RsnaSets:
    """The paper's three sets; the first two share normals, the third shares nothing.

    That is, no image and no ``patientId``; the challenge gives each image its own.
    """

    normal: tuple[RsnaImage, ...]
    mixture: tuple[RsnaImage, ...]
    test: tuple[RsnaImage, ...]

    def __str__(self) -> str:
        shared = len(set(self.normal) & set(self.mixture))
        parts = []
        for name, images in (("normal", self.normal), ("mixture", self.mixture), ("test", self.test)):
            normals = sum(image.label == NORMAL_LABEL for image in images)
            parts.append(f"{name} {normals:,} normal + {len(images) - normals:,} others")
        scale = "table 1 of the paper" if self.complete else "fewer images than the paper's table 1, in its proportions"
        return f"RSNA sets ({scale}): {'; '.join(parts)}; {shared:,} normals are in both training sets"

    def there(self) -> Self:
        """Return those whose files are there: left out after dealing, or they would move others when they come."""
        parts = (tuple(one for one in part if one.path.is_file()) for part in (self.normal, self.mixture, self.test))
        return type(self)(*parts)

    @property
    def complete(self) -> bool:
        """Whether these are as many images as in table 1."""
        sizes = (len(self.normal), len(self.mixture), len(self.test))
        return sizes == (7808, 6553 + 6631, 1358 + 13863)


def read_rsna(folder: Path) -> list[RsnaImage]:
    """Return the radiographs that have a class, in order of patient.

    Raises
    ------
    ConfigurationError
        If the folder isn't laid out like the challenge's, or a class is unknown.
    """
    table = folder / CLASSES
    if not table.is_file() or not (folder / IMAGES).is_dir():
        raise ConfigurationError(
            f"{folder} doesn't hold {CLASSES} and {IMAGES}/", remedy="unpack the RSNA challenge's archive there"
        )
    labels: dict[str, str] = {}
    for patient_id, name in _rows(table, "class"):
        label = LABELS.get(name.lower())
        if label is None:
            raise ConfigurationError(f"{CLASSES} has a class {name}", remedy=f"classes are {', '.join(LABELS)}")
        if labels.setdefault(patient_id, label) != label:
            raise ConfigurationError(f"{CLASSES} gives patient {patient_id} two classes")
    if (folder / BOXES).is_file():
        boxed = {patient_id for patient_id, target in _rows(folder / BOXES, "Target") if target == "1"}
        wrong = sorted(p for p in boxed & labels.keys() if labels[p] != OPACITY)
        if wrong:
            raise ConfigurationError(f"{BOXES} boxes an opacity in {len(wrong)} images that {CLASSES} gives none")
    images = [RsnaImage(p, label, folder / IMAGES / f"{p}.dcm") for p, label in sorted(labels.items())]
    missing = sum(not image.path.is_file() for image in images)
    if missing:
        log.warning("images_missing", count=missing, of=len(images))
    if missing == len(images):
        raise ConfigurationError(f"{IMAGES} holds none of the {len(images)} images that {CLASSES} names")
    return images


def _rows(path: Path, column: str) -> Iterator[tuple[str, str]]:
    """Yield every row's patientId and one of its other cells."""
    for line in read_table(path, ("patientId", column), remedy="give it as the challenge does"):
        patient_id, value = line.cells["patientid"], line.cells[column.lower()]
        if not patient_id or not value:
            raise ConfigurationError(f"{path.name}, line {line.number}: a row needs patientId and {column}")
        yield patient_id, value


def divide(images: Sequence[RsnaImage]) -> RsnaSets:
    """Make the three sets; an image's place depends on its patientId and on how many the table has, not on a seed."""
    normal = _shuffled(image for image in images if image.label == NORMAL_LABEL)
    others = _shuffled(image for image in images if image.label != NORMAL_LABEL)
    if len(normal) < 4 or len(others) < 2:
        raise ConfigurationError(f"{len(normal)} normal and {len(others)} other radiographs are too few for three sets")
    healthy = _dealt(normal, TABLE_1_NORMAL)
    ill = _dealt(others, TABLE_1_OTHERS)
    return RsnaSets(
        normal=(*healthy["shared"], *healthy["normal"]),
        mixture=(*healthy["shared"], *healthy["mixture"], *ill["mixture"]),
        test=(*healthy["test"], *ill["test"]),
    )


def _shuffled(images: Iterable[RsnaImage]) -> list[RsnaImage]:
    return sorted(images, key=lambda image: (share(image.patient_id, "rsna"), image.patient_id))


def _dealt(images: Sequence[RsnaImage], parts: Mapping[str, int]) -> dict[str, tuple[RsnaImage, ...]]:
    """Deal out as many as table 1 says; of fewer, the same shares, the test set first so that it is never empty."""
    total = sum(parts.values())
    dealt: dict[str, tuple[RsnaImage, ...]] = {}
    start, seen = 0, 0
    for name, count in sorted(parts.items(), key=lambda part: part[0] != "test"):
        seen += count
        end = seen if len(images) >= total else max(round(seen * len(images) / total), start + (name == "test"))
        dealt[name] = tuple(images[start:end])
        start = end
    return dealt


def training_sets(
    sets: RsnaSets, grid: Preprocessing, advance: Callable[[], None] = lambda: None
) -> tuple[Loaded, Loaded]:
    """Return the normal set and the mixture, by the node's own preparation; shared images are read once.

    Raises
    ------
    ConfigurationError
        If none of the radiographs can be used.
    """
    both = dict.fromkeys((*sets.normal, *sets.mixture))
    found = {
        one.patient_id: Found(one.patient_id, hashed(one.patient_id), (one.path,), (one.patient_id,)) for one in both
    }
    images = read_each(found.values(), grid, CXR, advance)
    if not len(images):
        raise ConfigurationError("none of the radiographs can be used", remedy="see why in the warnings above")

    def part(wanted: Sequence[RsnaImage]) -> Loaded:
        raw = {image.patient_id: of_found(found[image.patient_id]) for image in wanted}
        own = images.select([key in raw for key in images.keys])
        return Loaded(own, {key: raw[key] for key in own.keys})

    return part(sets.normal), part(sets.mixture)


def labelled_test_rows(sets: RsnaSets) -> list[Row]:
    """Return the test set as rows of a table of labels."""
    return [Row(image.path.name, image.label, {"patient": image.patient_id}) for image in sets.test]
