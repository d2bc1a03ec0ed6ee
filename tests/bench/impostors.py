"""How many impostors the gates refuse and how many real images pass, on what tuned nothing.

    .venv/bin/python -m tests.bench.impostors [--count 120] [--chests FOLDER]... [--no-chests FOLDER]... [--json]

Real: chests and head CTs of the half of the patients on which no gate was made (the head gate's older bounds saw all of
CT-ICH), those heads (as if slices were 5 mm apart) and of other builds, turned and leaning a little. On their own:
chests and heads with large lesions drawn into them and chests otherwise exposed (`tests.bench.true_chests`,
`true_heads`), and the studies in DICOM files: some of their patients tuned the gates. With ``--chests`` and
``--no-chests`` nothing but pictures (PNG, JPEG) in folders is judged: another collection's, that no gate ever saw.
Impostors are counted in two groups: "known" are of kinds that examples of the gates were of, too, or for which a gate
got a look of its own, though of other patients; "fresh" are of kinds that made no gate: `tests.bench.false_chests`,
`tests.bench.false_heads` (`_structured`, `_odd`), other radiographs and slices of public collections. Composites are
counted apart: what a computer puts into patients' skulls, or mixes of their halves, and no scanner ever sends; the
gate is told to let the worst bleed pass before it refuses the last of them. Photographs come with scikit-image and
scikit-learn where those are installed. Shares with 95 % Wilson intervals, as if every picture were another's: many are
made of the same heads.
"""

import argparse
import json
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import dcmread
from scipy import ndimage

from tests.bench import false_chests, false_heads, false_heads_odd, false_heads_structured, true_chests, true_heads
from tests.support.heads import volume_of
from tests.support.images import GRIDS
from tests.support.peers import shared
from tests.support.progress import tracked
from triage.errors import NotScoredError
from workers.images import Source, prepare
from workers.images.bct import MIN_COVERAGE_MM
from workers.images.cxr import cxr_tensor
from workers.images.gate_bct import check_head
from workers.images.gate_cxr import check_frontal_chest
from workers.images.pixels import grey_frame
from workers.images.resample import head_frame
from workers.lab.evaluation.metrics import wilson
from workers.lab.gates.chest import halves, of_heads

Picture = npt.NDArray[np.floating]

#: CT slices of chest, abdomen and neck in the public collection.
OTHER_SLICES = (
    "transfer_syntax/robyoung__REF_CT1_UNC",
    "transfer_syntax/cornerston__CTImage.dcm",
    "weird/dinbe0527__anon_apct.dcm",
    "weird/pydicom__explicit_VR-UN.dcm",
    "weird/pydicom__bad_sequence.dcm",
    "weird/pydicom__MAROTECH_CT_JP2Lossy.dcm",
)
#: Pictures in folders, and the shortest side of one that is judged as it is.
PICTURES, LEAST_PIXELS = {".png", ".jpg", ".jpeg"}, 100
KNOWN_HEADS = false_heads.KNOWN | false_heads_structured.KNOWN
KINDS = (
    "real", "otherwise exposed", "drawn ill", "impostor, known", "impostor, fresh", "impostor", "composite, known",
    "composite, fresh", "composite",
)  # fmt: skip


def passes_chest(picture: Picture) -> bool:
    try:
        check_frontal_chest(cxr_tensor(np.ascontiguousarray(picture, dtype=np.float32), (128, 128)))
    except NotScoredError:
        return False
    return True


def passes_head(hu: Picture, between_mm: float = 5.0) -> bool:
    if len(hu) * between_mm < MIN_COVERAGE_MM:
        return False
    volume = volume_of(hu, between_mm)
    try:
        check_head(volume, head_frame(volume))
    except NotScoredError:
        return False
    return True


def in_folder(folder: Path) -> Iterator[Picture]:
    """Yield the pictures of a folder and of those in it, scaled from 0 to 1; thumbnails enlarged."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES):
        with Image.open(path) as image:
            deep = image.mode.startswith("I") or image.mode == "F"
            grey = image.convert("F") if deep else image.convert("L")
            large = grey.resize((256, 256)) if min(grey.size) < LEAST_PIXELS else grey
            stored = np.asarray(large, dtype=np.float32)
        if np.ptp(stored) > 0:
            yield (stored - stored.min()) / np.ptp(stored)


def altered_chests(chests: npt.NDArray[np.uint8]) -> Iterator[tuple[str, Picture]]:
    for chest, other in zip(chests.astype(np.float32) / 255, np.roll(chests, 1, axis=0) / 255, strict=True):
        yield "inverted", 1 - chest
        yield "upside down", chest[::-1]
        yield "on its side", np.rot90(chest)
        yield "a quarter", chest[:64, 64:]
        yield "one half", chest[:, 64:].repeat(2, axis=1)
        yield "two side by side", np.hstack([chest, other])[:, ::2]
        yield "diagonal", ndimage.rotate(chest, 45, reshape=False, order=1)


def public(folder: Path) -> Iterator[tuple[str, Picture]]:
    rows = [row.split("\t") for row in (folder / "index.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    for row in rows:
        if not row[9].startswith("ok") or row[0].startswith(("chest/pydicom", "chest/mlmed", "chest/fo-dicom")):
            continue
        try:
            stored = grey_frame(dcmread(folder / row[0])).astype(np.float32)
        except (NotScoredError, ValueError):
            continue
        if np.ptp(stored) > 0:
            yield "public DICOM of something else", (stored - stored.min()) / np.ptp(stored)


def public_slices(folder: Path) -> Iterator[Picture]:
    """Yield single CT slices of other body parts than the head, HU."""
    for name in OTHER_SLICES:
        ds = dcmread(folder / name)
        yield grey_frame(ds).astype(np.float32) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)


def studies() -> Iterator[tuple[str, list[Source]]]:
    """Yield every study in DICOM files of real chests and heads."""
    for file in sorted(shared("data", "dicom_cxr").glob("*.dcm")):
        yield "CXR", [Source(file.name, file)]
    for folder in sorted(p for p in shared("data", "dicom_bct").iterdir() if p.is_dir()):
        yield "BCT", [Source(str(dcmread(f).SOPInstanceUID), f) for f in sorted(folder.glob("*.dcm"))]


def passes_study(sources: list[Source]) -> bool:
    try:
        prepare(sources, GRIDS)
    except NotScoredError:
        return False
    return True


def known_heads(heads: Iterable[Picture], rng: np.random.Generator) -> Iterator[tuple[str, Picture]]:
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    for hu in heads:
        yield "head upside down", hu[::-1]
        yield "slices shuffled", hu[rng.permutation(len(hu))]
        yield "top cut off", hu[: len(hu) * 6 // 10]
        yield "HU inverted", 80 - hu
        yield "no skull (as MR)", np.where(hu > 70, -20, hu)
        rows, columns = rng.uniform(0.4, 0.9, 2)
        body = np.where((y / rows) ** 2 + (x / columns) ** 2 < 1, rng.uniform(0, 60), -1000.0)
        yield "water cylinder", np.repeat(body[None], 32, axis=0)
        shell = np.where((abs((y / rows) ** 2 + (x / columns) ** 2 - 0.9) < 0.1), 800.0, body)
        yield "phantom with a shell", np.repeat(shell[None], 32, axis=0)
        trunk = np.where((y - 0.5 * rows) ** 2 + x**2 < 0.02, 400.0, body)
        yield "abdomen", np.repeat(trunk[None], 32, axis=0)
        yield "noise", rng.normal(30, 60, (32, 128, 128))


def measure(count: int) -> dict[str, dict[str, float]]:
    """Return the counts and shares by family."""
    rng = np.random.default_rng(1)
    rows: dict[str, list[bool]] = {}
    chests = []
    for name in ("cxr_adult", "cxr_children"):
        untouched = rng.permutation(halves(shared("data", f"{name}.npz"))[1])
        rows[f"CXR real: {name}"] = [passes_chest(image.astype(np.float32) / 255) for image in untouched[: 5 * count]]
        chests.append(untouched[: count // 2])
    some = np.concatenate(chests)
    for how, found in (("drawn ill", true_chests.ill), ("otherwise exposed", true_chests.exposed)):
        for family, picture in tracked([*found(some, rng)], f"CXR, {how}"):
            rows.setdefault(f"CXR {how}: {family}", []).append(passes_chest(picture))
    heads = halves(shared("data", "bct_ctich.npz"))[1]
    volumes = [volume / 255 * 120 - 20.0 for volume in heads]
    rows["BCT real: CT-ICH"] = [passes_head(hu) for hu in volumes]
    for name, head in tracked([*true_heads.built(volumes)], "BCT, other builds"):
        rows.setdefault(f"BCT real: {name}", []).append(passes_head(head))
    for name, head in tracked([*true_heads.ill(volumes, rng)], "BCT, ill"):
        rows.setdefault(f"BCT drawn ill: {name}", []).append(passes_head(head))
    for modality, sources in studies():
        rows.setdefault(f"{modality} DICOM studies, some of which tuned", []).append(passes_study(sources))
    with tempfile.TemporaryDirectory() as name, tarfile.open(shared("data", "dicom.tar.xz")) as archive:
        archive.extractall(name, filter="data")
        pictures = {
            "known": [*altered_chests(some), *(("head CT slice or projection", p) for p in of_heads(heads))],
            "fresh": [
                *false_chests.drawn(max(2, count // 4), rng),
                *false_chests.cut(some[:: max(1, len(some) // max(2, count // 4))], rng),
                *false_chests.projected(heads, rng),
                *false_chests.photographs(),
                *public(Path(name) / "dicom"),
            ],
        }
        slices = [*public_slices(Path(name) / "dicom")]
    for group, false in pictures.items():
        for family, picture in tracked(false, f"CXR impostors, {group}"):
            kind = "known" if family in false_chests.KNOWN else group
            rows.setdefault(f"CXR impostor, {kind}: {family}", []).append(not passes_chest(picture))
    for group, makes, false in _false_heads(volumes, slices, count, rng):
        for family, hu in tracked(false, f"BCT {group}s, {makes}"):
            kind = "known" if family in KNOWN_HEADS else makes
            rows.setdefault(f"BCT {group}, {kind}: {family}", []).append(not passes_head(hu))
    for kind in (f"{modality} {what}" for modality in ("CXR", "BCT") for what in KINDS):
        all_of_it = [r for name, found in rows.items() if name.startswith(kind) and ":" in name for r in found]
        if all_of_it:
            rows[f"{kind}, all"] = all_of_it
    return {name: _figures(found) for name, found in rows.items()}


def of_folders(chests: Iterable[Path], others: Iterable[Path]) -> dict[str, dict[str, float]]:
    """Return the counts and shares by folder."""
    rows = {f"CXR real: {folder}": [passes_chest(picture) for picture in in_folder(folder)] for folder in chests}
    rows |= {
        f"CXR impostor: {folder}": [not passes_chest(picture) for picture in in_folder(folder)] for folder in others
    }
    return {name: _figures(found) for name, found in rows.items()}


def _false_heads(
    volumes: list[Picture], slices: list[Picture], count: int, rng: np.random.Generator
) -> list[tuple[str, str, list[tuple[str, Picture]]]]:
    chosen = volumes[: max(2, count // 8)]
    impostors = [*false_heads.of_slices(slices, rng)]
    for hu, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True):
        impostors += [*false_heads.of_head(hu, other, rng), *false_heads.drawn(rng)]
    composites = []
    for _ in range(max(1, count // 24)):
        few = [volumes[k] for k in rng.permutation(len(volumes))[:5]]
        impostors += [*false_heads_structured.drawn(rng), *false_heads_odd.drawn(rng)]
        composites += [*false_heads_structured.composites(few, rng), *false_heads_odd.composites(few, rng)]
    known = [*known_heads(chosen, rng)]
    return [("impostor", "known", known), ("impostor", "fresh", impostors), ("composite", "fresh", composites)]


def _figures(found: list[bool]) -> dict[str, float]:
    low, high = wilson(sum(found), len(found))
    return {"right": sum(found), "of": len(found), "share": sum(found) / len(found), "low": low, "high": high}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=120, help="untouched chests to alter; five times so many to pass")
    parser.add_argument("--chests", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--no-chests", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for folder in [*arguments.chests, *arguments.no_chests]:
        if next(in_folder(folder), None) is None:
            parser.error(f"{folder} holds no picture (PNG, JPEG)")
    if arguments.chests or arguments.no_chests:
        figures = of_folders(arguments.chests, arguments.no_chests)
    else:
        figures = measure(arguments.count)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for name, row in figures.items():
        print(
            f"{name:48} {row['right']:4.0f}/{row['of']:4.0f}  {row['share']:.3f} ({row['low']:.3f}..{row['high']:.3f})"
        )


if __name__ == "__main__":
    main()
