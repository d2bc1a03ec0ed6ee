"""One dispatcher per ledger."""

from sqlalchemy import or_

from triage.ledger import schema
from triage.ledger.base import Room


class Leader(Room):
    """Leadership under a lease: it falls to another when its holder stops renewing it."""

    def acquire_leader(self, name: str, holder: str, ttl_s: float) -> bool:
        """Become the leader `name` for `ttl_s` seconds, or stay it; False if somebody else is."""
        now = self._clock()
        mine = {"holder": holder, "expires_at": now + ttl_s}
        statement = (
            self._database.insert(schema.leader)
            .values(name=name, **mine)
            .on_conflict_do_update(
                index_elements=["name"],
                set_=mine,
                where=or_(schema.leader.c.holder == holder, schema.leader.c.expires_at < now),
            )
            .returning(schema.leader.c.name)
        )
        with self._database.write() as connection:
            return connection.execute(statement).one_or_none() is not None
