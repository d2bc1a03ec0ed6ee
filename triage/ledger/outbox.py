"""Objects on their way to destinations, each until it is proved to have arrived."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select, update

from triage.errors import ForbiddenTransitionError, NotFoundError
from triage.ledger import schema
from triage.ledger.base import Room, is_due, to_outbox_item
from triage.ledger.records import OutboxItem, OutboxState, State

_UNPROVED = frozenset({OutboxState.PENDING, OutboxState.SENT})
_SETTLED = (OutboxState.COMMITTED, OutboxState.DISCARDED)


class Outbox(Room):
    """What delivery needs of the ledger, and the operator who looks after it."""

    def due_outbox(self, destination: str, limit: int) -> list[OutboxItem]:
        """Return what is to be sent to a destination now: STAT first, then in the order of reporting."""
        query = (
            select(schema.outbox)
            .join(schema.study, schema.study.c.id == schema.outbox.c.study_id)
            .where(
                schema.outbox.c.destination == destination,
                schema.outbox.c.state == OutboxState.PENDING,
                is_due(schema.outbox.c.next_try_at, self._clock()),
                schema.study.c.state != State.DISCARDED,
            )
            .order_by(schema.study.c.stat.desc(), schema.outbox.c.id)
            .limit(limit)
        )
        return self._items(query)

    def sent_unproven(self, destination: str, older_than: float, limit: int) -> list[OutboxItem]:
        """Return what was sent to a destination before the time `older_than` and isn't proved yet, oldest first."""
        query = (
            select(schema.outbox)
            .where(
                schema.outbox.c.destination == destination,
                schema.outbox.c.state == OutboxState.SENT,
                schema.outbox.c.sent_at < older_than,
            )
            .order_by(schema.outbox.c.id)
            .limit(limit)
        )
        return self._items(query)

    def find_outbox_by_transaction(self, transaction_uid: str) -> list[OutboxItem]:
        """Return the items that a storage commitment request covers."""
        if not transaction_uid:
            return []
        query = select(schema.outbox).where(schema.outbox.c.transaction_uid == transaction_uid)
        return self._items(query.order_by(schema.outbox.c.id))

    def outbox_sent(self, item_id: int, status: str, transaction_uid: str) -> bool:
        """Note that the destination took an item. Call it before asking for commitment: the answer may be quick.

        A further call for an item that is sent already changes its transaction UID (a request made again).

        Returns
        -------
        bool
            False if it is neither pending nor sent; so do the methods below.

        Raises
        ------
        NotFoundError
            If there is no such item; so do the methods below.
        """
        with self._database.write() as connection:
            item = self._lock_item(connection, item_id)
            sending = int(item.state is OutboxState.PENDING)
            return self._change(
                connection,
                item,
                _UNPROVED,
                OutboxState.SENT,
                attempts=item.attempts + sending,
                last_status=status,
                last_error="",
                sent_at=self._clock(),
                transaction_uid=transaction_uid,
            )

    def outbox_committed(self, item_id: int, proof: str) -> bool:
        """Note the proof that the destination holds an item; with the last one its study is delivered."""
        with self._database.write() as connection:
            item = self._lock_item(connection, item_id)
            changed = self._change(
                connection,
                item,
                _UNPROVED | {OutboxState.DEAD},
                OutboxState.COMMITTED,
                committed_at=self._clock(),
                proof=proof,
                last_error="",
            )
            self._deliver_if_proved(connection, item.study_id)
        return changed

    def outbox_retry(self, item_id: int, error: str, next_try_at: float) -> bool:
        """Note that sending or proving an item failed; it is sent again at the time `next_try_at`."""
        with self._database.write() as connection:
            item = self._lock_item(connection, item_id)
            # An item that was sent has had its attempt counted.
            attempts = item.attempts + int(item.state is OutboxState.PENDING)
            return self._change(
                connection,
                item,
                _UNPROVED,
                OutboxState.PENDING,
                attempts=attempts,
                last_error=error,
                next_try_at=next_try_at,
            )

    def outbox_dead(self, item_id: int, error: str) -> bool:
        """Give an item up until an operator requeues or discards it."""
        with self._database.write() as connection:
            item = self._lock_item(connection, item_id)
            return self._change(connection, item, _UNPROVED, OutboxState.DEAD, last_error=error)

    def outbox_rebuilt(self, item_id: int, sop_class_uid: str, sop_instance_uid: str, digest: str) -> bool:
        """Replace a pending item's object: the destination didn't accept the SOP class it was built as."""
        with self._database.write() as connection:
            item = self._lock_item(connection, item_id)
            return self._change(
                connection,
                item,
                frozenset({OutboxState.PENDING}),
                OutboxState.PENDING,
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
                digest=digest,
            )

    def outbox_requeue(self, item_id: int, actor: str = "operator") -> None:
        """Send an item again, now, with its attempts counted from zero.

        Raises
        ------
        ForbiddenTransitionError
            If the destination has proved that it holds it, or the study was discarded.
        """
        with self._database.write() as connection:
            item = self._lock_item(connection, item_id)
            if self._get_study(connection, item.study_id).state is State.DISCARDED:
                raise ForbiddenTransitionError("nothing of a discarded study is sent")
            fresh = {"attempts": 0, "next_try_at": self._clock(), "transaction_uid": ""}
            from_states = frozenset(OutboxState) - {OutboxState.COMMITTED}
            if not self._change(connection, item, from_states, OutboxState.PENDING, **fresh):
                raise ForbiddenTransitionError(f"outbox item {item_id} is {item.state}; it cannot be requeued")
            self._note_item(connection, item, actor, "requeued")

    def outbox_discard(self, item_id: int, actor: str) -> None:
        """Give an item up for good.

        Raises
        ------
        ForbiddenTransitionError
            If the destination has proved that it holds it.
        """
        with self._database.write() as connection:
            item = self._lock_item(connection, item_id)
            from_states = _UNPROVED | {OutboxState.DEAD}
            if not self._change(connection, item, from_states, OutboxState.DISCARDED):
                raise ForbiddenTransitionError(f"outbox item {item_id} is {item.state}; it cannot be discarded")
            self._note_item(connection, item, actor, "discarded")
            self._deliver_if_proved(connection, item.study_id)

    def outbox_item(self, item_id: int) -> OutboxItem:
        """Return an item."""
        with self._database.read() as connection:
            return _get_item(connection, item_id)

    def list_outbox(
        self, state: str | None = None, destination: str | None = None, limit: int = 1000, *, settled: bool = True
    ) -> list[OutboxItem]:
        """Return the items in a state (None: any) for a destination (None: any): dead ones first, then the oldest.

        Parameters
        ----------
        settled : bool
            Also those that are committed or discarded, where no state is named.
        """
        dead_first = schema.outbox.c.state != OutboxState.DEAD
        query = select(schema.outbox).where(*_asked(state, destination, settled=settled))
        return self._items(query.order_by(dead_first, schema.outbox.c.id).limit(limit))

    def count_outbox(self, state: str | None = None, destination: str | None = None, *, settled: bool = True) -> int:
        """Return how many items `list_outbox` would list without a limit."""
        query = select(func.count()).select_from(schema.outbox).where(*_asked(state, destination, settled=settled))
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def outbox_of(self, study_id: int) -> list[OutboxItem]:
        """Return the items of a study revision."""
        query = select(schema.outbox).where(schema.outbox.c.study_id == study_id)
        return self._items(query.order_by(schema.outbox.c.id))

    def digests_of_maps(self, study_instance_uid: str) -> set[str]:
        """Return the digests of the relevance maps of all revisions of a study."""
        query = (
            select(schema.outbox.c.digest)
            .join(schema.study, schema.study.c.id == schema.outbox.c.study_id)
            .where(schema.study.c.study_instance_uid == study_instance_uid, schema.outbox.c.kind == "heatmap")
        )
        with self._database.read() as connection:
            return set(connection.scalars(query))

    def previous_report(self, study_id: int) -> OutboxItem | None:
        """Return the latest report of a study up to this revision (not discarded): the predecessor of the next one.

        A revision has one itself when it was reported, then requeued.

        Raises
        ------
        NotFoundError
            If there is no such study.
        """
        with self._database.read() as connection:
            study = self._get_study(connection, study_id)
            query = (
                select(schema.outbox)
                .join(schema.study, schema.study.c.id == schema.outbox.c.study_id)
                .where(
                    schema.study.c.study_instance_uid == study.study_instance_uid,
                    schema.study.c.revision <= study.revision,
                    schema.outbox.c.kind == "sr",
                    schema.outbox.c.state != OutboxState.DISCARDED,
                )
                .order_by(schema.study.c.revision.desc(), schema.outbox.c.id.desc())
                .limit(1)
            )
            row = connection.execute(query).one_or_none()
        return to_outbox_item(row) if row else None

    def _items(self, query: Select[Any]) -> list[OutboxItem]:
        with self._database.read() as connection:
            return [to_outbox_item(row) for row in connection.execute(query)]

    def _lock_item(self, connection: Connection, item_id: int) -> OutboxItem:
        """Read an item under its study's lock, which all its changes are made under."""
        self._lock_study(connection, _get_item(connection, item_id).study_id)
        return _get_item(connection, item_id)

    def _change(
        self,
        connection: Connection,
        item: OutboxItem,
        from_states: frozenset[OutboxState],
        to_state: OutboxState,
        **values: Any,
    ) -> bool:
        if item.state not in from_states:
            return False
        connection.execute(update(schema.outbox).where(schema.outbox.c.id == item.id).values(state=to_state, **values))
        return True

    def _note_item(self, connection: Connection, item: OutboxItem, actor: str, what: str) -> None:
        study = self._get_study(connection, item.study_id)
        reason = f"outbox item {item.id} for {item.destination} {what}"
        self._note(connection, study.id, study.state, study.state, actor=actor, reason=reason)


def _asked(state: str | None, destination: str | None, *, settled: bool) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if state is not None:
        conditions.append(schema.outbox.c.state == state)
    elif not settled:
        conditions.append(schema.outbox.c.state.not_in(_SETTLED))
    if destination is not None:
        conditions.append(schema.outbox.c.destination == destination)
    return conditions


def _get_item(connection: Connection, item_id: int) -> OutboxItem:
    row = connection.execute(select(schema.outbox).where(schema.outbox.c.id == item_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"the outbox has no item number {item_id}")
    return to_outbox_item(row)
