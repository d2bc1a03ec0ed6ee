"""A listener among peers that misbehave, and one that is killed."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom.filereader import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import build_context
from structlog.testing import capture_logs

from tests.support.peers import wait_until
from tests.support.reception import (
    Node,
    associate,
    echoes,
    make_config,
    make_ct,
    running,
    send_one,
    subprocess_listener,
)
from triage.errors import ConfigurationError
from triage.ledger import open_ledger
from triage.receive.listener import Listener
from triage.store import ObjectStore

CONTEXTS = [build_context(CTImageStorage, [ExplicitVRLittleEndian])]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path / "data") as running_node:
        yield running_node


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


# --- who may come -----------------------------------------------------------------------------------------------


def test_only_the_invited(tmp_path: Path) -> None:
    peers = [{"ae_title": "CT1", "address": "127.0.0.0/8"}, {"ae_title": "CR1", "address": "10.0.0.0/8"}]
    with running(tmp_path / "data", peer=peers) as node, capture_logs() as logs:
        assert send_one(node.port, make_ct(), calling="CT1").Status == 0x0000
        for stranger in ("CR1", "ct1", "CT2"):
            association = associate(node.port, CONTEXTS, calling=stranger)
            assert association.is_rejected
            assert (association.acceptor.primitive.result, association.acceptor.primitive.diagnostic) == (1, 3)
        wrong_called = associate(node.port, CONTEXTS, calling="CT1", called="PACS")
        assert wrong_called.is_rejected
        assert wrong_called.acceptor.primitive.diagnostic == 7
    assert [e["peer"] for e in logs if e["event"] == "association_rejected"] == ["CR1", "ct1", "CT2"]


def test_associations_are_bounded(tmp_path: Path) -> None:
    with running(tmp_path / "data", max_associations=8, max_associations_per_peer=3) as node:
        held = [associate(node.port, CONTEXTS) for _ in range(3)]
        assert all(a.is_established for a in held)
        refused = associate(node.port, CONTEXTS)
        assert refused.is_rejected
        # Transient, local limit exceeded: the sender may come again.
        primitive = refused.acceptor.primitive
        assert (primitive.result, primitive.result_source, primitive.diagnostic) == (2, 3, 2)
        held[0].release()
        wait_until(lambda: node.listener.connections.counts()[1] == 2, what="the place to be free")
        again = associate(node.port, CONTEXTS)
        assert again.is_established
        for association in (again, *held[1:]):
            association.release()


def test_silent_clients_keep_nobody_out(tmp_path: Path) -> None:
    # Should they have to time out first, the sender (which waits 20 s) would.
    few = {"max_associations": 4, "max_associations_per_peer": 4, "idle_timeout_s": 600}
    with running(tmp_path / "data", **few) as node:
        silent = [_connect(node.port) for _ in range(60)]
        assert send_one(node.port, make_ct()).Status == 0x0000
        for client in silent:
            client.close()


def test_a_silent_client_is_shown_out(tmp_path: Path) -> None:
    with running(tmp_path / "data", idle_timeout_s=1) as node, closing(_connect(node.port)) as client:
        assert client.recv(1) == b""
        wait_until(lambda: node.listener.connections.counts() == (0, 0), what="the connection to be struck out")


@pytest.mark.parametrize(
    "beginning",
    [b"\x01", b"\x01\0\0\0\0\xff half of an association request", b"\x04\0\0\0\0\x10 data first"],
    ids=["one byte", "half a PDU", "data first"],
)
def test_half_a_pdu_is_not_waited_for_for_ever(tmp_path: Path, beginning: bytes) -> None:
    with running(tmp_path / "data", idle_timeout_s=1) as node, closing(_connect(node.port)) as client:
        client.sendall(beginning)
        # The node may say A-ABORT before it closes.
        while client.recv(100):
            pass
        wait_until(lambda: node.listener.connections.counts() == (0, 0), what="the connection to be struck out")
        assert echoes(node.port)


def test_a_monstrous_pdu_is_not_read(node: Node) -> None:
    before = psutil.Process().memory_info().rss
    with closing(_connect(node.port)) as client:
        client.sendall(b"\x01\0" + struct.pack(">L", 0xFFFFFFFF))
        with pytest.raises(OSError, match=r".*"):
            for _ in range(1000):
                client.sendall(bytes(1 << 20))
    assert psutil.Process().memory_info().rss - before < 100 << 20


def test_an_idle_association_is_aborted(tmp_path: Path) -> None:
    with running(tmp_path / "data", idle_timeout_s=1) as node:
        association = associate(node.port, CONTEXTS)
        assert association.is_established
        wait_until(lambda: association.is_aborted, what="the abort")
        wait_until(lambda: node.listener.connections.counts() == (0, 0), what="the end")


def test_rubbish_on_the_port(node: Node) -> None:
    for rubbish in (
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(5000),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"\xff" * 6,
    ):
        with closing(_connect(node.port)) as client:
            client.sendall(rubbish)
            client.settimeout(20)
            try:
                while client.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert echoes(node.port)


def test_titles_in_logs_are_sanitised(node: Node) -> None:
    with capture_logs() as logs, pytest.MonkeyPatch.context() as patch:
        from pynetdicom import _config

        patch.setitem(_config.VALIDATORS, "AE", lambda value: (True, ""))
        association = associate(node.port, CONTEXTS, calling="X\n[error] evil")
        association.release()
        wait_until(lambda: node.listener.connections.counts() == (0, 0), what="the end")
    assert "\n" not in "".join(str(value) for entry in logs for value in entry.values())


# --- memory, threads, files -------------------------------------------------------------------------------------


def test_a_huge_object_is_not_held_in_memory(tmp_path: Path) -> None:
    with subprocess_listener(tmp_path / "data") as (process, port):
        memory = psutil.Process(process.pid)
        before = memory.memory_info().rss
        peak = [before]
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                peak.append(memory.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        status = send_one(port, make_ct(PixelData=bytes(300 << 20)))
        done.set()
        watcher.join()
        assert status.Status == 0x0000
        assert max(peak) - before < 40 << 20


def test_hundreds_of_associations_leave_nothing(node: Node) -> None:
    process = psutil.Process()
    assert echoes(node.port)
    wait_until(lambda: node.listener.connections.counts() == (0, 0), what="the end")
    threads, files = threading.active_count(), process.num_fds()
    for number in range(300):
        association = associate(node.port, CONTEXTS)
        assert association.is_established, number
        if number % 3 == 0:
            assert association.send_c_store(make_ct()).Status == 0x0000
        if number % 3 == 1:
            association.dul.socket.socket.close()
            association.kill()
        elif number % 3 == 2:
            association.abort()
        else:
            association.release()
    wait_until(lambda: node.listener.connections.counts() == (0, 0), what="the end of all associations")
    wait_until(lambda: threading.active_count() <= threads, what="the threads to end")
    wait_until(lambda: process.num_fds() <= files + 12, what="the files to be closed")
    assert len(node.objects()) == 100
    assert not node.incoming()


def test_an_object_cut_off_leaves_nothing(node: Node) -> None:
    association = associate(node.port, CONTEXTS)
    pdus = iter(range(1_000_000))
    send_pdu = association.dul.send_pdu

    def cut(primitive: Any) -> None:
        if next(pdus) == 40:
            association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        send_pdu(primitive)

    association.dul.send_pdu = cut  # type: ignore[method-assign]
    association.send_c_store(make_ct(PixelData=bytes(20 << 20)))
    wait_until(lambda: node.listener.connections.counts() == (0, 0), what="the end")
    assert not node.objects()
    assert not node.incoming()


def test_a_peer_that_does_not_wait_for_responses(node: Node) -> None:
    """Requests sent at once, without waiting: all are answered, in order, none is lost."""
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    association = associate(node.port, CONTEXTS)
    association._reactor_checkpoint.clear()
    for number in range(20):
        ds = make_ct(PixelData=bytes(500_000))
        request = C_STORE()
        request.MessageID = number + 1
        request.Priority = 2
        request.AffectedSOPClassUID = ds.SOPClassUID
        request.AffectedSOPInstanceUID = ds.SOPInstanceUID
        request.DataSet = BytesIO(encode(ds, False, True))
        association.dimse.send_msg(request, 1)
    answers = [association.dimse.get_msg(block=True)[1] for _ in range(20)]
    association._reactor_checkpoint.set()
    assert [(a.MessageIDBeingRespondedTo, a.Status) for a in answers] == [(n + 1, 0x0000) for n in range(20)]
    association.release()
    assert len(node.objects()) == 20


# --- start, stop, kill ------------------------------------------------------------------------------------------


def test_a_port_in_use_is_a_configuration_error(node: Node, tmp_path: Path) -> None:
    second = Listener(node.config, node.ledger, node.store)
    with pytest.raises(ConfigurationError, match="cannot listen"), second:
        pass


@pytest.mark.timeout(60)
def test_stopping_ends_what_does_not_end_itself(tmp_path: Path) -> None:
    with running(tmp_path / "data", idle_timeout_s=600) as node:
        association = associate(node.port, CONTEXTS)
        silent = _connect(node.port)
    wait_until(lambda: not association.is_established, what="the association to end")
    silent.close()
    with pytest.raises(OSError, match=r".*"):
        _connect(node.port)


def test_the_role_stops_on_sigterm(tmp_path: Path) -> None:
    with subprocess_listener(tmp_path / "data") as (process, _):
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize("kill_after", [1, 7, 23])
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, kill_after: int) -> None:
    """SIGKILL in the middle of sending; then everything that was acknowledged is there, and the rest can come again."""
    acknowledged = []
    objects = [make_ct(PixelData=bytes(400_000)) for _ in range(40)]
    data_dir = tmp_path / "data"
    with subprocess_listener(data_dir) as (process, port):
        association = associate(port, CONTEXTS)
        send_pdu, pdus = association.dul.send_pdu, iter(range(1_000_000))

        def killing(primitive: Any) -> None:
            # The third of an object's messages: the command and a part of the data set were sent before.
            if len(acknowledged) == kill_after and next(pdus) == 2:
                wait_until(
                    lambda: [p for p in (data_dir / "incoming").iterdir() if p.stat().st_size > 1000], what="a part"
                )
                process.kill()
                process.wait()
            send_pdu(primitive)

        association.dul.send_pdu = killing  # type: ignore[method-assign]
        for ds in objects:
            if not association.is_established:
                break
            if association.send_c_store(ds).get("Status") == 0x0000:
                acknowledged.append(ds)
        association.abort()
    assert len(acknowledged) == kill_after
    assert list((data_dir / "incoming").iterdir())  # killed in the middle of an object
    config = make_config(data_dir)
    store = ObjectStore(data_dir)
    with closing(open_ledger(config)) as ledger:
        for ds in acknowledged:
            instance = ledger.find_instance(ds.SOPInstanceUID)
            assert instance is not None
            assert dcmread(store.path(instance.digest)) == ds
    with subprocess_listener(data_dir) as (_, port):
        assert {send_one(port, ds).Status for ds in objects} == {0x0000}
        assert not list(store.incoming_dir.iterdir())
    assert len(list(store.objects_dir.rglob("*.dcm"))) == len(objects)
