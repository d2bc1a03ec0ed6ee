"""When is a study complete? DICOM doesn't say, so evidence decides; which signal fired is recorded.

The signals: the modality's quiet time has passed since the last object; an association that brought objects was
released (a hint: it makes us ask early); the destination holds as many images of the study as we do; the cap, so that
no study waits for ever.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence

import structlog
from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association

from triage.association import STUDY_ROOT_FIND, Timeouts, associate, matches
from triage.config.schema import Complete, Destination
from triage.errors import DeliveryError
from triage.ledger.records import NON_IMAGE_MODALITIES, Study

log = structlog.get_logger(__name__)


def quiet_time_s(study: Study, config: Complete) -> float:
    """Return how long the study's senders must be silent, seconds; an unknown modality waits as long as CT."""
    return config.quiet_s.get(study.modality, config.quiet_s["CT"])


def is_quiet(study: Study, silent_s: float, config: Complete) -> bool:
    """Tell whether the study's senders have been silent for its quiet time; see `Silence`."""
    return silent_s >= quiet_time_s(study, config)


def is_capped(study: Study, now: float, silent_s: float, config: Complete) -> bool:
    """Tell whether the longest wait is over; silence says so, too, where a clock that was fast has been set back."""
    return max(now - study.first_object_at, silent_s) >= config.max_wait_s


class Silence:
    """Measures how long the senders of each study have been silent, by a clock that nobody sets.

    What passed before it began to look doesn't count: while the node was down, nobody could send.

    Parameters
    ----------
    ticks : callable
        Returns seconds, monotonic.
    """

    def __init__(self, ticks: Callable[[], float] = time.monotonic) -> None:
        self._ticks = ticks
        self._began: float | None = None
        self._since: dict[tuple[int, float], float] = {}

    def look(self, studies: Iterable[Study], now: float) -> dict[int, float]:
        """Return the silence of each study, seconds, by its number; other studies are forgotten.

        Parameters
        ----------
        now : float
            Seconds since the epoch: tells how old a last object is that is new to us. One of the future came now.
        """
        tick = self._ticks()
        began = self._began = tick if self._began is None else self._began
        since: dict[tuple[int, float], float] = {}
        for study in studies:
            last = (study.id, study.last_object_at)
            since[last] = self._since.get(last, max(began, tick - max(now - study.last_object_at, 0.0)))
        self._since = since
        return {number: tick - start for (number, _), start in since.items()}


def is_released(study: Study) -> bool:
    """Tell whether an association that brought objects of the study was released after its last object came."""
    return study.released_at is not None and study.released_at >= study.last_object_at


def completion(study: Study, now: float, silent_s: float, config: Complete, count: int | None) -> str | None:
    """Return the signal by which a study that is being received is complete; None if it isn't yet.

    Parameters
    ----------
    now : float
        Seconds since the epoch.
    silent_s : float
        For how long its senders have been silent; see `Silence`.
    count : int or None
        How many images of it the destination holds; None if it wasn't asked or didn't say. Ask again when an object
        has come since.

    Returns
    -------
    str or None
        ``"count"``: the destination holds as many images as we do. ``"cap"``: the longest wait is over. ``"quiet"``:
        the quiet time has passed and nobody is known to hold more. ``"quiet+release"``: the same, and the sender has
        released its association.
    """
    if count is not None and count == study.image_count > 0:
        return "count"
    if is_capped(study, now, silent_s, config):
        return "cap"
    if not is_quiet(study, silent_s, config) or (count is not None and count > study.image_count):
        return None
    return "quiet+release" if is_released(study) else "quiet"


def count_at_destination(
    destinations: Sequence[Destination],
    study_instance_uid: str,
    our_ae_title: str,
    *,
    own_series: Collection[str] = (),
    timeout_s: float = 5.0,
) -> int | None:
    """Ask the first destination that answers for how many images of a study it holds. Blocks: call it in a thread.

    Series without images (reports, ours among them; key objects; presentation states) aren't counted.

    Parameters
    ----------
    own_series : collection of str
        Series Instance UIDs of the relevance maps that we sent: images, but none that we could still receive.
    timeout_s : float
        For connecting, for the association and for each answer, seconds.

    Returns
    -------
    int or None
        0 if it doesn't know the study; None if no destination gives a number.

    References
    ----------
    PS3.4 section C.6.2 (Study Root Query/Retrieve), tables C.3.4-1 to C.3.4-3 (NumberOfStudyRelatedInstances and
    NumberOfSeriesRelatedInstances are optional keys).
    """
    contexts = [build_context(STUDY_ROOT_FIND)]
    for destination in destinations:
        try:
            with associate(
                destination.host,
                destination.port,
                destination.ae_title,
                calling_ae_title=our_ae_title,
                contexts=contexts,
                timeouts=Timeouts.each(timeout_s),
            ) as assoc:
                return _images_of(assoc, study_instance_uid, own_series)
        except DeliveryError as error:
            log.info("count_unavailable", destination=destination.name, reason=error.message)
    return None


def _images_of(assoc: Association, study_instance_uid: str, own_series: Collection[str]) -> int:
    """Count by the study's own total where all of it is images, else series by series.

    Raises
    ------
    DeliveryError
        If the peer fails the query or leaves the numbers out.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study_instance_uid
    query.ModalitiesInStudy = None
    query.NumberOfStudyRelatedInstances = None
    # Some peers answer with more than what was asked for.
    found = [ds for ds in matches(assoc, query) if ds.get("StudyInstanceUID") == study_instance_uid]
    if not found:
        return 0
    total = _number(found[0], "NumberOfStudyRelatedInstances")
    modalities = _modalities(found[0])
    if total is not None and modalities and not own_series and not modalities & NON_IMAGE_MODALITIES:
        return total
    return _images_by_series(assoc, study_instance_uid, own_series)


def _images_by_series(assoc: Association, study_instance_uid: str, own_series: Collection[str]) -> int:
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = study_instance_uid
    query.SeriesInstanceUID = None
    query.Modality = None
    query.NumberOfSeriesRelatedInstances = None
    counts: dict[str, int] = {}
    for ds in matches(assoc, query):
        if (
            ds.get("Modality") in NON_IMAGE_MODALITIES
            or ds.get("SeriesInstanceUID") in own_series
            or ds.get("StudyInstanceUID", study_instance_uid) != study_instance_uid
        ):
            continue
        number = _number(ds, "NumberOfSeriesRelatedInstances")
        if number is None:
            raise DeliveryError("the peer doesn't say how many instances a series has")
        counts[str(ds.get("SeriesInstanceUID"))] = number
    return sum(counts.values())


def _number(ds: Dataset, keyword: str) -> int | None:
    try:
        return int(ds.get(keyword))
    except (TypeError, ValueError):
        return None


def _modalities(ds: Dataset) -> set[str]:
    value = ds.get("ModalitiesInStudy") or ()
    return {value} if isinstance(value, str) else {str(modality) for modality in value}
