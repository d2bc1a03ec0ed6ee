"""Objects coming in, and studies becoming complete."""

import hashlib
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, Select, insert, select, update
from sqlalchemy.exc import IntegrityError

from triage.errors import ConflictingObjectError
from triage.ledger import schema
from triage.ledger.base import IDENTITY, Room, to_instance, to_study
from triage.ledger.records import NON_IMAGE_MODALITIES, Instance, ReceivedInstance, Recorded, State, Study

# What a study's modality is when its objects have several: the first of these wins, then the first that came,
# and a modality without images never hides one with.
_TELLING = ("CT", "DX", "CR")


class Reception(Room):
    """What the listener and the completion loop need of the ledger."""

    def record_instance(self, obj: ReceivedInstance) -> Recorded:
        """Record an object whose bytes are durable; when this returns, so is the record.

        It joins the current revision while that one is receiving. Later, a scorable object opens the next
        revision, which keeps arrival, STAT, claim and the last priority, so that the study doesn't sink while it
        is scored again; an object that no flow looks at is merely filed.

        No image stays unseen: any one opens the next revision of a discarded study, and one that joins a study that
        was read brings it back onto the worklist. Reports and other objects without images do neither, nor what we
        sent ourselves and a PACS sends back.

        Raises
        ------
        ConflictingObjectError
            If another object is known under this SOP Instance UID.
        """
        try:
            return self._record(obj)
        except IntegrityError:
            # The same SOP Instance UID came under two Study Instance UIDs at the same moment.
            return self._record(obj)

    def _record(self, obj: ReceivedInstance) -> Recorded:
        now = self._clock()
        obj = _cleaned(obj)
        with self._database.write() as connection:
            study = self._lock_current(connection, obj.study_instance_uid)
            known = connection.execute(_instance_by_uid(obj.sop_instance_uid)).one_or_none()
            if known is not None:
                if known.digest != obj.digest:
                    raise ConflictingObjectError
                return Recorded.DUPLICATE
            if study is None:
                study_id = self._open(connection, _first_revision(obj, now), actor="listener", reason="first object")
            elif self._opens_next(connection, study, obj):
                study_id = self._open_next(
                    connection,
                    study,
                    actor="listener",
                    reason=f"a late object came when revision {study.revision} was {study.state}",
                    **_merged(study, obj),
                )
            else:
                study_id = self._join(connection, study, obj, now)
            connection.execute(
                insert(schema.instance).values(
                    study_id=study_id,
                    received_at=now,
                    **{k: v for k, v in asdict(obj).items() if k not in IDENTITY},
                )
            )
        return Recorded.NEW

    def _opens_next(self, connection: Connection, study: Study, obj: ReceivedInstance) -> bool:
        if study.state is State.DISCARDED:
            return obj.scorable or self._is_news(connection, obj)
        return study.state is not State.RECEIVING and obj.scorable

    @staticmethod
    def _is_news(connection: Connection, obj: ReceivedInstance) -> bool:
        """Tell whether an object is an image, and not one of our own maps on its way back from a PACS."""
        ours = (
            select(schema.outbox.c.id)
            .join(schema.study, schema.study.c.id == schema.outbox.c.study_id)
            .where(
                schema.study.c.study_instance_uid == obj.study_instance_uid,
                schema.outbox.c.sop_instance_uid == obj.sop_instance_uid,
            )
            .limit(1)
        )
        return _images(obj) > 0 and connection.execute(ours).first() is None

    def _join(self, connection: Connection, study: Study, obj: ReceivedInstance, now: float) -> int:
        values = _merged(study, obj)
        if study.state is State.RECEIVING:
            values["last_object_at"] = now
        if study.read_at is not None and self._is_news(connection, obj):
            values["read_at"] = None
            reason = "not read any more: an image came later"
            self._note(connection, study.id, study.state, study.state, actor="listener", reason=reason)
        connection.execute(update(schema.study).where(schema.study.c.id == study.id).values(**values))
        return study.id

    def find_instance(self, sop_instance_uid: str) -> Instance | None:
        """Return the object known under this UID."""
        with self._database.read() as connection:
            row = connection.execute(_instance_by_uid(sop_instance_uid)).one_or_none()
        return to_instance(row) if row else None

    def association_released(self, association_id: str, at: float) -> list[int]:
        """Note that an association ended at `at`: a hint that the studies it brought may be complete.

        Returns
        -------
        list of int
            The numbers of the studies still receiving that it brought objects of.
        """
        brought = select(schema.instance.c.study_id).where(schema.instance.c.association_id == association_id)
        touched = (
            select(schema.study.c.id)
            .where(schema.study.c.id.in_(brought), schema.study.c.state == State.RECEIVING)
            .order_by(schema.study.c.id)
            .with_for_update()
        )
        with self._database.write() as connection:
            ids = [int(study_id) for study_id in connection.scalars(touched)]
            if ids:
                connection.execute(update(schema.study).where(schema.study.c.id.in_(ids)).values(released_at=at))
        return ids

    def receiving_studies(self) -> list[Study]:
        """Return the studies that are still being received, oldest first."""
        query = (
            select(schema.study)
            .where(schema.study.c.state == State.RECEIVING, schema.study.c.is_current)
            .order_by(schema.study.c.id)
        )
        with self._database.read() as connection:
            return [to_study(row) for row in connection.execute(query)]

    def complete_study(self, study_id: int, signal: str) -> bool:
        """Close a revision for new objects, fix its manifest hash and make its PREPARE job ready.

        A study without any scorable object becomes unsuitable at once. No report says so: ours are of chest
        radiographs and head CTs, and have no words for a study of another kind.

        Returns
        -------
        bool
            False if it isn't receiving any more (then nothing is done).

        Raises
        ------
        NotFoundError
            If there is no such study.
        """
        with self._database.write() as connection:
            study = self._lock_study(connection, study_id)
            if study.state is not State.RECEIVING:
                return False
            held = self._held_instances(connection, study)
            self._move(
                connection,
                study,
                State.COMPLETE,
                actor="dispatcher",
                reason=signal,
                completed_by=signal,
                manifest_hash=_manifest_hash(held),
            )
            self._begin(connection, study.id, held, actor="dispatcher")
        return True

    def instances_of(self, study_id: int) -> list[Instance]:
        """Return all objects of the study that came up to and with this revision, in order of arrival.

        Raises
        ------
        NotFoundError
            If there is no such study.
        """
        with self._database.read() as connection:
            study = self._get_study(connection, study_id)
            return self._held_instances(connection, study)


def _cleaned(obj: ReceivedInstance) -> ReceivedInstance:
    """Take out of a peer's text what PostgreSQL cannot hold: NUL, and what isn't Unicode."""
    cleaned: dict[str, Any] = {
        name: value.replace("\0", " ").encode(errors="replace").decode()
        for name, value in asdict(obj).items()
        if isinstance(value, str)
    }
    return replace(obj, **cleaned)


def _instance_by_uid(sop_instance_uid: str) -> Select[Any]:
    return select(schema.instance).where(schema.instance.c.sop_instance_uid == sop_instance_uid)


def _first_revision(obj: ReceivedInstance, now: float) -> dict[str, Any]:
    return {
        "study_instance_uid": obj.study_instance_uid,
        "revision": 1,
        "arrived_at": now,
        "first_object_at": now,
        "last_object_at": now,
        "modality": obj.modality,
        "instance_count": 1,
        "image_count": _images(obj),
        "stat": False,
        **{name: getattr(obj, name) for name in IDENTITY},
    }


def _merged(study: Study, obj: ReceivedInstance) -> dict[str, Any]:
    """What a further object adds to the study's row: counts, the modality, identity that was missing."""
    known = {name: getattr(study, name) or getattr(obj, name) for name in IDENTITY}
    return {
        **known,
        "modality": min((study.modality, obj.modality), key=_telling),
        "instance_count": study.instance_count + 1,
        "image_count": study.image_count + _images(obj),
    }


def _images(obj: ReceivedInstance) -> int:
    return int(obj.modality not in NON_IMAGE_MODALITIES)


def _telling(modality: str) -> int:
    if modality in _TELLING:
        return _TELLING.index(modality)
    return len(_TELLING) + int(modality in NON_IMAGE_MODALITIES or not modality)


def _manifest_hash(held: list[Instance]) -> str:
    lines = sorted(f"{instance.sop_instance_uid} {instance.digest}\n" for instance in held)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
