"""A study's result becomes bytes in the store and rows in the outbox, one per destination."""

from collections.abc import Callable
from datetime import UTC, datetime

from pydicom import Dataset

from triage.config import Configuration, Destination
from triage.errors import NotFoundError, ReportError
from triage.ledger import Instance, Ledger, OutboxItem, OutboxNew, State, Study
from triage.report import ReportInput, build_report, encode
from triage.sop_classes import COMPREHENSIVE_3D_SR
from triage.store import ObjectStore

Negotiate = Callable[[Destination], str | None]
"""Returns the best SR class a destination accepts; None while that isn't known."""

_CT = "CT"


class Publisher:
    """Builds reports: once per SOP class that the destinations accept.

    Parameters
    ----------
    config : Configuration
        Destinations, thresholds, our AE title.
    ledger, store
        Where the result and the sources are, and where the report goes.
    """

    def __init__(self, config: Configuration, ledger: Ledger, store: ObjectStore) -> None:
        self._config = config
        self._ledger = ledger
        self._store = store

    def publish(self, study: Study, negotiate: Negotiate) -> list[OutboxNew]:
        """Build, store and address the report of a scored (or declined) study.

        Returns
        -------
        list of OutboxNew
            One row per destination that wants it; without a destination one row with an empty name, so that the
            report exists.

        Raises
        ------
        ReportError
            If no report can be built from the study's objects.
        """
        wanted = "not_scored" if study.state is State.UNSUITABLE else "sr"
        targets = [d for d in self._config.destination if wanted in d.send]
        built: dict[str, OutboxNew] = {}
        rows = []
        for target in targets:
            sop_class_uid = negotiate(target) or COMPREHENSIVE_3D_SR
            if sop_class_uid not in built:
                built[sop_class_uid] = self._build(study, target.name, sop_class_uid)
            rows.append(_addressed(built[sop_class_uid], target.name))
        return rows or [self._build(study, "", COMPREHENSIVE_3D_SR)]

    def rebuild(self, item: OutboxItem, sop_class_uid: str) -> OutboxNew:
        """Build the same result as another SR class, for a destination that turned out to refuse the first one."""
        study = self._ledger.study_by_id(item.study_id)
        if study is None:
            raise NotFoundError(f"no study {item.study_id} in the ledger")
        return self._build(study, item.destination, sop_class_uid)

    def _build(self, study: Study, destination: str, sop_class_uid: str) -> OutboxNew:
        sources = self._ledger.sources_of(study.id) or self._images_of(study)
        if not sources:
            raise ReportError("the study has no image that a report could refer to")
        evidence = [self._store.read(instance.digest, stop_before_pixels=True) for instance in sources]
        result = ReportInput(
            # Of what was scored, not of the study: it may hold radiographs and slices.
            modality="BCT" if any(instance.modality == _CT for instance in sources) else "CXR",
            revision=study.revision,
            score=study.score,
            priority=study.priority if study.state is not State.UNSUITABLE else None,
            reason=study.reason if study.state is State.UNSUITABLE else "",
            rank=self._config.rank,
            station=self._config.listen.ae_title,
            created_at=datetime.now(UTC),
        )
        report = build_report(evidence, result, sop_class_uid=sop_class_uid, previous=self._previous(study))
        digest = self._store.put_bytes(encode(report))
        return OutboxNew(destination, "sr", sop_class_uid, str(report.SOPInstanceUID), digest)

    def _images_of(self, study: Study) -> list[Instance]:
        return [instance for instance in self._ledger.instances_of(study.id) if instance.scorable]

    def _previous(self, study: Study) -> Dataset | None:
        item = self._ledger.previous_report(study.id)
        return self._store.read(item.digest) if item is not None else None


def _addressed(row: OutboxNew, destination: str) -> OutboxNew:
    return OutboxNew(destination, row.kind, row.sop_class_uid, row.sop_instance_uid, row.digest)
