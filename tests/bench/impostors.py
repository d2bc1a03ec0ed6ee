"""How many impostors the gates refuse and how many real images pass, on what tuned nothing.

    .venv/bin/python -m tests.bench.impostors [--count 120] [--json]

Real: chests and head CTs of the half of the patients on which no gate was made (the head gate's older bounds saw all of
CT-ICH). Impostors: altered untouched chests and heads, other radiographs and slices of public collections, and, with
``pip install .[bench]``, photographs that come with scikit-image. Shares with 95 % Wilson intervals.
"""

import argparse
import json
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import dcmread
from scipy import ndimage

from tests.support.peers import shared
from triage.errors import NotScoredError
from workers.images.cxr import cxr_tensor
from workers.images.fit_gate import halves, of_heads
from workers.images.gate_bct import check_head
from workers.images.gate_cxr import check_frontal_chest
from workers.images.pixels import grey_frame
from workers.images.resample import head_frame
from workers.images.volume import HU_OFFSET, TOP, Volume

Picture = npt.NDArray[np.floating]


def wilson(found: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share."""
    z, share = 1.96, found / count
    middle, spread = share + z * z / (2 * count), z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    return float((middle - spread) / (1 + z * z / count)), float((middle + spread) / (1 + z * z / count))


def passes_chest(picture: Picture) -> bool:
    try:
        check_frontal_chest(cxr_tensor(np.ascontiguousarray(picture, dtype=np.float32), (128, 128)))
    except NotScoredError:
        return False
    return True


def passes_head(hu: Picture, between_mm: float = 5.0) -> bool:
    affine = np.column_stack([np.diag([1.56, 1.56, between_mm]), np.zeros(3)])
    values = np.clip(hu + HU_OFFSET, 0, TOP).astype(np.float32)
    volume = Volume(values=values, affine=affine, up=np.array([0.0, 0.0, 1.0]), class_shares=np.zeros(5))
    try:
        check_head(volume, head_frame(volume))
    except NotScoredError:
        return False
    return True


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


def photographs() -> Iterator[tuple[str, Picture]]:
    spec = find_spec("skimage")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted((Path(place) / "data").glob("*")):
            if path.suffix in (".png", ".jpg"):
                yield "photograph", np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255


def false_heads(heads: Iterable[Picture], rng: np.random.Generator) -> Iterator[tuple[str, Picture]]:
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
    heads = halves(shared("data", "bct_ctich.npz"))[1]
    pictures = [*altered_chests(np.concatenate(chests)), *photographs()]
    pictures += [("head CT slice or projection", picture) for picture in of_heads(heads)]
    with tempfile.TemporaryDirectory() as name, tarfile.open(shared("data", "dicom.tar.xz")) as archive:
        archive.extractall(name, filter="data")
        pictures += public(Path(name) / "dicom")
    for family, picture in pictures:
        rows.setdefault(f"CXR impostor: {family}", []).append(not passes_chest(picture))
    volumes = [volume / 255 * 120 - 20.0 for volume in heads]
    rows["BCT real: CT-ICH"] = [passes_head(hu) for hu in volumes]
    for family, hu in false_heads(volumes[: count // 8], rng):
        rows.setdefault(f"BCT impostor: {family}", []).append(not passes_head(hu))
    for kind in ("CXR real", "CXR impostor", "BCT real", "BCT impostor"):
        rows[f"{kind}, all"] = [right for name, found in rows.items() if name.startswith(f"{kind}:") for right in found]
    return {name: _figures(found) for name, found in rows.items()}


def _figures(found: list[bool]) -> dict[str, float]:
    low, high = wilson(sum(found), len(found))
    return {"right": sum(found), "of": len(found), "share": sum(found) / len(found), "low": low, "high": high}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=120, help="untouched chests to alter; five times so many to pass")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
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
