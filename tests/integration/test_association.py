"""Associations that we open, with peers of every habit, and queries that a peer never ends."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association

from tests.support.peers import free_port, wait_until
from triage.association import STUDY_ROOT_FIND, Timeouts, associate, matches
from triage.complete import count_at_destination
from triage.config.schema import Destination
from triage.errors import AssociationError, DeliveryError, QueryError, RejectedError

VERIFICATION = "1.2.840.10008.1.1"
Answers = Callable[[evt.Event], Iterator[tuple[int, Dataset | None]]]


@contextmanager
def peer(answers: Answers | None = None, *handlers: Any, accepts: str = STUDY_ROOT_FIND) -> Iterator[int]:
    """Run an SCP that answers queries so; yields its port."""
    ae = AE("PEER")
    ae.require_called_aet = True
    ae.add_supported_context(accepts)
    port = free_port()
    bound = [*handlers, *([(evt.EVT_C_FIND, answers)] if answers else [])]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=bound)
    try:
        yield port
    finally:
        server.shutdown()


@contextmanager
def called(port: int, ae_title: str = "PEER", seconds: float = 5) -> Iterator[Association]:
    with associate(
        "127.0.0.1",
        port,
        ae_title,
        calling_ae_title="TRIAGE",
        contexts=[build_context(STUDY_ROOT_FIND)],
        timeouts=Timeouts.each(seconds),
    ) as assoc:
        yield assoc


def query() -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    ds.StudyInstanceUID = "1.2.3"
    return ds


def endless(_: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
    """A peer that finds more and more."""
    for _ in itertools.count():
        yield 0xFF00, query()


def test_it_is_released_at_its_end_and_aborted_on_an_exception() -> None:
    ends: list[str] = []
    released = (evt.EVT_RELEASED, lambda event: ends.append("released"))
    aborted = (evt.EVT_ABORTED, lambda event: ends.append("aborted"))
    with peer(None, released, aborted) as port:
        with called(port):
            pass
        wait_until(lambda: ends == ["released"], what="the release")
        with pytest.raises(KeyError), called(port):
            raise KeyError
        wait_until(lambda: ends == ["released", "aborted"], what="the abort")


def test_why_there_is_none() -> None:
    rejected, useless = "rejected.*register our AE title TRIAGE at OTHER", "no presentation context"
    with peer() as port, pytest.raises(RejectedError, match=rejected), called(port, "OTHER"):
        pass
    with peer(accepts=VERIFICATION) as port, pytest.raises(AssociationError, match=useless), called(port):
        pass
    with pytest.raises(AssociationError, match="nobody answers") as failure, called(free_port()):
        pass
    assert not isinstance(failure.value, RejectedError)


def test_answers_without_end_are_read_so_many_and_so_long() -> None:
    with peer(endless) as port:
        with pytest.raises(DeliveryError, match="never came to its end"), called(port) as assoc:
            assert len(list(matches(assoc, query(), limit=20))) == 20
        began = time.monotonic()
        with pytest.raises(DeliveryError, match="never came to its end"), called(port, seconds=0.2) as assoc:
            list(matches(assoc, query(), limit=10**9))
        assert time.monotonic() - began < 20


def test_a_failed_query_is_told_from_an_association_that_ended() -> None:
    def failing(_: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield 0xA700, None

    def aborting(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        event.assoc.abort()
        yield 0x0000, None

    with peer(failing) as port, pytest.raises(QueryError, match="A700"), called(port) as assoc:
        list(matches(assoc, query()))
    with peer(aborting) as port, pytest.raises(DeliveryError, match="aborted or timed out"), called(port) as assoc:
        list(matches(assoc, query()))


def test_a_destination_whose_answers_trickle_without_end_holds_no_count_up() -> None:
    """Each answer comes in time, the last one never: a thread of the dispatcher's was gone for good."""
    stop = threading.Event()

    def trickling(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        while not stop.wait(0.1):
            yield 0xFF00, query()

    with peer(trickling) as port:
        destination = Destination(name="pacs", host="127.0.0.1", port=port, ae_title="PEER")
        counted: list[int | None] = []
        ask = threading.Thread(
            target=lambda: counted.append(count_at_destination([destination], "1.2.3", "TRIAGE", timeout_s=0.4)),
            daemon=True,
        )
        ask.start()
        ask.join(15)
        stop.set()
    assert counted == [None]
