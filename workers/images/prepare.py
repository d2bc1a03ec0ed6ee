"""A study's stored instances -> what the flows see of it, or the reason why there is nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pydicom import Dataset
from pydicom.uid import ComputedRadiographyImageStorage

from triage.errors import NotScoredError
from triage.sop_classes import RADIOGRAPHS, SECONDARY_CAPTURE, TOMOGRAMS
from workers.images.ages import age_of
from workers.images.bct import prepare_bct
from workers.images.cxr import prepare_cxr
from workers.images.sources import BCT, CXR, Grids, Prepared, Source

ADULT_YEARS = 16
_CHILD = f"patient younger than {ADULT_YEARS}: the model's card says whose images it knows"

_KINDS = ((BCT, TOMOGRAMS, prepare_bct, "brain CTs"), (CXR, RADIOGRAPHS, prepare_cxr, "chest radiographs"))


def prepare(sources: Sequence[Source], grids: Grids, *, captures: bool = False) -> Prepared:
    """Choose what is scored in a study, check that it is what it claims to be, and bring it onto the model's grid.

    A study that holds both a head CT and chest radiographs is scored by its CT, or by its radiographs where the CT
    can't be scored; in either case it says what was not, and why.

    Parameters
    ----------
    sources : sequence of Source
        The study's instances, in any order. The same files give the same result, whatever their order.
    grids : mapping of str to Preprocessing
        The active bundles' grids by modality, ``"CXR"`` and ``"BCT"``.
    captures : bool
        Secondary Captures count, too, if their Modality says that they are radiographs: so public collections hold
        them. From a PACS they may be anything, screenshots of reports among it.

    Returns
    -------
    Prepared
        The input of the model and the instances that it was made from.

    Raises
    ------
    NotScoredError
        If nothing in the study can be scored; the message is one sentence for a radiographer, without identifiers.
    OSError, MemoryError
        If the machine can't do it now: that is never a reason to leave out an image, or a slice, as far as decoders
        tell it (see `workers.images.decoders.decode_frame`).
    """
    headers: list[tuple[Source, Dataset]] = []
    refused: list[tuple[str, str]] = []  # why, and how that is told beside what was scored
    for source in sorted(sources, key=lambda s: s.sop_instance_uid):
        try:
            headers.append((source, source.header()))
        except NotScoredError as exc:
            refused.append((exc.message, exc.message))
    kinds = [(kind, [(source, ds) for source, ds in headers if _class_of(ds, captures) in kind[1]]) for kind in _KINDS]
    present = [(kind, own) for kind, own in kinds if own]
    for number, ((modality, _, prepare_modality, name), own) in enumerate(present):
        if modality not in grids:
            missing = f"no model for {name} is installed"
            refused.append((missing, missing))
            continue
        try:
            found = prepare_modality(own, grids[modality])
        except NotScoredError as exc:
            refused.append((exc.message, f"{name} not scored: {exc.message}"))
            continue
        known = [*_identity_notes(ds for _, ds in headers), *_age_notes(ds for _, ds in own)]
        left = [f"{kind[3]} not looked at: {len(others)}" for kind, others in present[number + 1 :]]
        return replace(found, notes=[*found.notes, *dict.fromkeys([*known, *(note for _, note in refused), *left])])
    raise NotScoredError(
        "; ".join(dict.fromkeys(reason for reason, _ in refused)) or "neither a radiograph nor a CT in the study"
    )


def _class_of(ds: Dataset, captures: bool) -> str:
    """Return the SOP class as which an instance counts."""
    uid = str(ds.get("SOPClassUID", "") or "")
    film = captures and uid == SECONDARY_CAPTURE and ds.get("Modality") in ("CR", "DX")
    return ComputedRadiographyImageStorage if film else uid


def _identity_notes(headers: Iterable[Dataset]) -> list[str]:
    """Return a warning where images of one study are said to be of several patients: the worklist names one of them."""
    said = [[_folded(ds, keyword) for keyword in ("PatientID", "PatientName", "PatientBirthDate")] for ds in headers]
    numbers, names, births = (set(values) for values in zip(*said, strict=True))
    if len(numbers - {""}) > 1:
        return [f"the images name {len(numbers - {''})} patients"]
    if len(numbers) > 1:
        return ["not all images name the patient"]
    return ["the images differ in the patient's name or birth date"] if len(names) > 1 or len(births) > 1 else []


def _folded(ds: Dataset, keyword: str) -> str:
    """Return a patient's attribute as it compares: in upper case, without empty parts at its end."""
    return str(ds.get(keyword, "") or "").strip(" ^=").upper()


def _age_notes(headers: Iterable[Dataset]) -> list[str]:
    """Return what a reader should know of a child: most models were made of adults."""
    return [_CHILD] if any((age := age_of(ds, bare=False)) is not None and age < ADULT_YEARS for ds in headers) else []
