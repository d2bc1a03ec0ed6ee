"""What a radiograph's header says that it shows: the body part and the view, in the words of several languages.

Headers are filled in by hand, or by the button that was pressed. What nobody here understands refuses nothing: the
image check decides.
"""

import re
import unicodedata

import numpy as np
from pydicom import Dataset

from triage.errors import NotScoredError

_CHEST = re.compile(r"CHEST|THORA[XK]|TORAX|TORACE|BRUSTKORB|LUNG|PULMO|POUMON|PECHO|CXR", re.IGNORECASE)
#: A chest's word and a spine's.
_THORACIC = re.compile(r"^(?!.*(SPIN|VERTEB|WIRBEL|COLUMN)).*THORACIC", re.IGNORECASE | re.DOTALL)
#: Parts that are no chest, of PS3.16 table L-1 and as other languages have them: those that a radiograph is taken of.
#: Not what lies in a chest (heart, ribs, sternum, clavicle; of the esophagus a swallow is taken) and not what may have
#: one in it (trunk, whole body).
_OTHER_PART = re.compile(
    r"SPIN[AE]|VERTEB|WIRBEL|COLUMNA|SACR(UM|AL|O)|COCCY|LUMBAR|CERVICAL"
    r"|\b(ABDOM|PELVI|HIPS?\b|ILIUM|ACETABUL|SI ?JOINT|COLON\b|RECTUM|STOMACH|KIDNEY|BLADDER|URE(TER|THRA)|UTERUS|KUB\b"
    r"|HEAD|SKULL|BRAIN|FACE\b|FACIAL|NASAL|NOSE|ORBIT|EYES?\b|EARS?\b|SINUS|JAW|MAXILLA|MANDIB|TEETH|TOOTH|DENTAL|TMJ"
    r"|SELLA|ZYGOMA|NECK|BREAST|SHOULDER|EXTREMIT|(UPPER|LOWER) ?(ARM|LEG|LIMB)|ARMS?\b|HUMERUS|ELBOW|FOREARM|RADIUS"
    r"|ULNA|WRIST|CARP|SCAPHOID|HANDS?\b|FINGER|THUMB|METACARP|LEGS?\b|FEMUR|THIGH|KNEE|PATELLA|TIBIA|FIBULA|CALF"
    r"|ANKLE|TARS|CALCAN|HEEL|FOOT|FEET|METATARS|TOES?\b|LIVER\b|O?ESOPHAG|UPPER ?GI\b"
    r"|BECKEN|KNIE|SCHULTER|SCHAE?DEL|HUE?FTE|[HBL]WS\b|(UNTER|OBER)SCHENKEL|HANDGELENK"
    r"|GENOU|MAINS?\b|EPAULE|BASSIN|RODILLA|MANOS?\b|PIERNA|HOMBRO|GINOCCHIO|BACINO|SPALLA)",
    re.IGNORECASE,
)
_LATERAL = re.compile(r"\b[LR]?LAT(ERA\w*)?\b|\bLL\b|\bRL\b|\bSEITL|PROFIL", re.IGNORECASE)
_OBLIQUE = re.compile(r"\bOBL|\b(RAO|LAO|RPO|LPO|RLO|LLO)\b", re.IGNORECASE)
#: "Décubitus dorsal" and "decúbito supino" are no more than supine.
_DECUBITUS = re.compile(r"DECUB(?!\w* (DORSAL|SUPIN))|\b(RLD|LLD)\b", re.IGNORECASE)
_FRONTAL = re.compile(
    r"\b(P[-. ]?A|A[-. ]?P|D[-. ]?[PV])\b|POST(ER(O|IOR))?[-. ]{0,2}ANT(ER\w*)?\b"
    r"|ANT(ER(O|IOR))?[-. ]{0,2}POST(ER\w*)?\b|\bFRONT(AL\w*)?\b|\bFACE\b",
    re.IGNORECASE,
)
#: "2 views", "2V", "2 Ebenen", "deux incidences", "2 proiezioni", …
_SEVERAL = re.compile(
    r"\b([2-4]|TWO|ZWEI|DEUX|DUE|DOS|DUAS|TWEE) ?(V\b|VW|VIEW|EBENE|INCID|PRO[IJY]|RICHT)", re.IGNORECASE
)


def check_body_part(ds: Dataset) -> None:
    """Refuse what is labelled as another body part, unless a label or its procedure says chest.

    About one label in seven is wrong (Güld et al., SPIE 4685, 2002): where two disagree, the image decides.

    Raises
    ------
    NotScoredError
        If Body Part Examined (0018,0015) or Anatomic Region Sequence (0008,2218) names a known other part, and nothing
        a chest.
    """
    labelled = _words(ds, ["BodyPartExamined"], ["AnatomicRegionSequence"])
    described = _words(ds, ["StudyDescription", "SeriesDescription", "ProtocolName"], ["ProcedureCodeSequence"])
    chest = any(word.search(text) for text in (labelled, described) for word in (_CHEST, _THORACIC))
    if _OTHER_PART.search(labelled) and not chest:
        raise NotScoredError("not a chest radiograph")


def view_of(ds: Dataset) -> str:
    """Return "PA", "AP" or "" (unknown); refuse lateral, oblique and decubitus views.

    Raises
    ------
    NotScoredError
        If the header names one of these; a lateral view only where it names no frontal one, nor two views, beside it.

    References
    ----------
    PS3.3 C.8.4.1 (ViewPosition in CR), C.8.11.5 (ViewCodeSequence in DX), C.7.6.1.1.1 (PatientOrientation).
    """
    named = _words(ds, ["ViewPosition"], ["ViewCodeSequence"])
    described = "" if ds.get("ViewPosition") else _words(ds, ["SeriesDescription"])
    frontal, lateral = _FRONTAL.search(named), _LATERAL.search(named)
    for pattern, reason in ((_DECUBITUS, "decubitus view"), (_OBLIQUE, "oblique view")):
        if pattern.search(named) or pattern.search(described):
            raise NotScoredError(reason)
    # What is called "PA/LAT", or "2 views", is one of two images: which of them, the image itself has to say.
    several = _FRONTAL.search(described) or _SEVERAL.search(described)
    if (lateral and not frontal) or (_LATERAL.search(described) and not several):
        raise NotScoredError("lateral view")
    orientation = [str(v)[:1] for v in np.atleast_1d(ds.get("PatientOrientation") or [])]
    if orientation and orientation[0] in ("A", "P"):
        raise NotScoredError("lateral view")
    # Of other words ("PORTABLE", "SUPINE") and of none the image itself has to say what it shows.
    return {"P": "PA", "A": "AP"}.get(frontal.group(0)[0].upper(), "") if frontal and not lateral else ""


def _words(ds: Dataset, keywords: list[str], sequences: list[str] | None = None) -> str:
    """Return what attributes, and the meanings of codes, say: without accents, words apart."""
    said = [str(ds.get(keyword, "") or "") for keyword in keywords]
    said += [str(item.get("CodeMeaning", "")) for keyword in sequences or () for item in ds.get(keyword) or []]
    folded = unicodedata.normalize("NFKD", " ".join(said))
    return "".join(c for c in folded if not unicodedata.combining(c)).replace("_", " ").strip()
