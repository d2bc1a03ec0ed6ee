"""A study's result becomes bytes in the store and rows in the outbox, one per destination."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog
from pydicom import Dataset

from triage.config import Configuration, Destination
from triage.errors import ReportError
from triage.ledger import Instance, Ledger, OutboxItem, OutboxNew, OutboxState, State, Study
from triage.messages import Relevance
from triage.pictures import Backdrop
from triage.report import ReportInput, build_capture, build_parametric_map, build_report, encode
from triage.sop_classes import COMPREHENSIVE_3D_SR, scored_as
from triage.store import ObjectStore

log = structlog.get_logger(__name__)

Maps = Callable[[], tuple[Relevance, Backdrop] | None]
"""Returns a study's relevance map and what it is shown on; None if it has none."""

Negotiate = Callable[[Destination], str | None]
"""Returns the best SR class a destination accepts; None while that isn't known."""

SR, HEATMAP = "sr", "heatmap"
"""Kinds of outbox items."""


@dataclass(frozen=True)
class _Statement:
    """The headers of what was scored (or declined), what is said about it, and what said so before.

    ``kept`` are the digests of this revision's objects by UID: one that is built again keeps its bytes.
    """

    evidence: list[Dataset]
    result: ReportInput
    previous: Dataset | None
    kept: dict[str, str]


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

    def publish(self, study: Study, negotiate: Negotiate, maps: Maps = lambda: None) -> list[OutboxNew]:
        """Build, store and address the results of a scored (or declined) study.

        Parameters
        ----------
        maps : callable
            Asked once, and only if a destination wants relevance maps. Whatever goes wrong with them, the report is
            published without.

        Returns
        -------
        list of OutboxNew
            Reports before maps: one row per object and destination that wants it; without a destination one row with
            an empty name, so that the report exists.

        Raises
        ------
        ReportError
            If no report can be built from the study's objects.
        """
        wanted = "not_scored" if study.state is State.UNSUITABLE else SR
        targets = [d for d in self._config.destination if wanted in d.send]
        told = self._statement(study)
        shown: list[OutboxNew] = []
        if study.state is not State.UNSUITABLE and any(HEATMAP in d.send for d in targets):
            shown = self._build_maps(study, told, maps)
        built: dict[tuple[str, bool], OutboxNew] = {}
        reports: list[OutboxNew] = []
        heatmaps: list[OutboxNew] = []
        for target in targets:
            sop_class_uid = negotiate(target) or COMPREHENSIVE_3D_SR
            own = shown if HEATMAP in target.send else []
            key = (sop_class_uid, bool(own))
            if key not in built:
                built[key] = self._build(told, target.name, sop_class_uid, own)
            reports.append(replace(built[key], destination=target.name))
            heatmaps.extend(replace(row, destination=target.name) for row in own)
        return [*reports, *heatmaps] or [self._build(told, "", COMPREHENSIVE_3D_SR)]

    def rebuild(self, item: OutboxItem, sop_class_uid: str) -> OutboxNew:
        """Build the same result as another SR class, for a destination that turned out to refuse the first one.

        Raises
        ------
        ReportError
            If the item is no report: a map has one form only.
        """
        if item.kind != SR:
            raise ReportError("a relevance map cannot be sent as a report")
        study = self._ledger.study_by_id(item.study_id)
        shown = [
            OutboxNew(row.destination, row.kind, row.sop_class_uid, row.sop_instance_uid, row.digest)
            for row in self._ledger.outbox_of(study.id)
            if row.kind == HEATMAP and row.destination == item.destination
        ]
        # The first form's own predecessor: the latest report is that form itself by now.
        told = replace(self._statement(study), previous=_predecessor(self._store.read(item.digest)))
        return self._build(told, item.destination, sop_class_uid, shown)

    def _build(
        self, told: _Statement, destination: str, sop_class_uid: str, maps: Sequence[OutboxNew] = ()
    ) -> OutboxNew:
        report = build_report(
            told.evidence,
            told.result,
            sop_class_uid=sop_class_uid,
            previous=told.previous,
            maps=[self._store.read(row.digest, stop_before_pixels=True) for row in maps],
        )
        digest = told.kept.get(str(report.SOPInstanceUID))
        if digest is not None:
            return OutboxNew(destination, SR, str(report.SOPClassUID), str(report.SOPInstanceUID), digest)
        return self._kept(report, destination, SR)

    def _build_maps(self, study: Study, told: _Statement, maps: Maps) -> list[OutboxNew]:
        rows: list[OutboxNew] = []
        try:
            found = maps()
            if found is None:
                return []
            relevance, backdrop = found
            rows.append(self._kept(build_capture(told.evidence, told.result, relevance, backdrop), "", HEATMAP))
            if backdrop.planes is not None:
                parametric = build_parametric_map(told.evidence, told.result, relevance, backdrop.planes)
                rows.append(self._kept(parametric, "", HEATMAP))
        except Exception as exc:  # noqa: BLE001 - no map may ever delay or lose a report; what was built is sent
            log.error("relevance_map_not_built", study=study.id, built=len(rows), error=type(exc).__name__)
        return rows

    def _kept(self, ds: Dataset, destination: str, kind: str) -> OutboxNew:
        digest = self._store.put_bytes(encode(ds))
        return OutboxNew(destination, kind, str(ds.SOPClassUID), str(ds.SOPInstanceUID), digest)

    def _statement(self, study: Study) -> _Statement:
        sources = self._ledger.sources_of(study.id) or self._images_of(study)
        if not sources:
            raise ReportError("the study has no image that a report could refer to")
        evidence = [self._store.read(instance.digest, stop_before_pixels=True) for instance in sources]
        result = ReportInput(
            # Of what was scored, not of the study: it may hold radiographs and slices.
            modality=scored_as(instance.sop_class_uid for instance in sources),
            revision=study.revision,
            score=study.score,
            priority=study.priority if study.state is not State.UNSUITABLE else None,
            reason=study.reason if study.state is State.UNSUITABLE else "",
            rank=self._config.rank,
            notes=study.notes,
            station=self._config.listen.ae_title,
            created_at=datetime.now(UTC),
        )
        rows = self._ledger.outbox_of(study.id)
        kept = {row.sop_instance_uid: row.digest for row in rows if row.state is not OutboxState.DISCARDED}
        return _Statement(evidence, result, self._previous(study), kept)

    def _images_of(self, study: Study) -> list[Instance]:
        return [instance for instance in self._ledger.instances_of(study.id) if instance.scorable]

    def _previous(self, study: Study) -> Dataset | None:
        item = self._ledger.previous_report(study.id)
        return self._store.read(item.digest) if item is not None else None


def _predecessor(report: Dataset) -> Dataset | None:
    """Return the UIDs of the report that a report of ours names as its predecessor (PS3.3 section C.17.2)."""
    named = report.get("PredecessorDocumentsSequence")
    if not named:
        return None
    series = named[0].ReferencedSeriesSequence[0]
    sop = series.ReferencedSOPSequence[0]
    previous = Dataset()
    previous.StudyInstanceUID, previous.SeriesInstanceUID = named[0].StudyInstanceUID, series.SeriesInstanceUID
    previous.SOPClassUID, previous.SOPInstanceUID = sop.ReferencedSOPClassUID, sop.ReferencedSOPInstanceUID
    return previous
