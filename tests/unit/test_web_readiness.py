"""The probes, each against a real part or a real absence of one."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from tests.support.peers import free_port
from tests.support.redis import running_redis
from triage.config.schema import Broker, Configuration, Listen, Models, Web
from triage.ledger import open_ledger
from triage.probes import echo, probe_broker, probe_disk, probe_ledger, probe_listener, probe_models, url_of
from triage.store import IMPLEMENTATION_CLASS_UID
from triage.transport import connect
from triage.web.readiness import Readiness, default_probes


def test_every_part_is_named_and_one_that_fails_makes_it_unready() -> None:
    def broken() -> tuple[bool, str]:
        raise RuntimeError("secret detail")

    ready = Readiness({"a": lambda: (True, "fine")}).check()
    assert ready.ready
    unready = Readiness({"a": lambda: (True, "fine"), "b": broken}).check()
    assert not unready.ready
    assert unready.parts["a"].ok
    assert not unready.parts["b"].ok
    assert "secret" not in unready.parts["b"].detail


def test_an_answer_is_kept_for_its_time() -> None:
    time, asked = [0.0], []

    def probe() -> tuple[bool, str]:
        asked.append(time[0])
        return True, ""

    readiness = Readiness({"a": probe}, ttl_s=5, clock=lambda: time[0])
    for moment in (0.0, 4.9, 5.0, 9.9):
        time[0] = moment
        readiness.check()
    assert asked == [0.0, 5.0]


def test_probes_run_side_by_side() -> None:
    together = threading.Barrier(2, timeout=20)

    def probe() -> tuple[bool, str]:
        together.wait()
        return True, ""

    assert Readiness({"a": probe, "b": probe}).check().ready


@contextmanager
def _echo_scp(**options: object) -> Iterator[int]:
    ae = AE(ae_title="TRIAGE")
    ae.add_supported_context(Verification)
    for name, value in options.items():
        setattr(ae, name, value)
    port = free_port()
    server = ae.start_server(("127.0.0.1", port), block=False)
    try:
        yield port
    finally:
        server.shutdown()


def test_a_listener_that_echoes_is_ready() -> None:
    with _echo_scp(implementation_class_uid=IMPLEMENTATION_CLASS_UID) as port:
        ok, detail = probe_listener(Listen(port=port))
    assert ok, detail
    assert "0x0000" in detail


def test_another_program_that_echoes_is_not_the_node() -> None:
    with _echo_scp() as port:
        assert probe_listener(Listen(port=port)) == (False, f"another program answers on port {port}")
        assert echo("127.0.0.1", port, "TRIAGE", calling_ae_title="ANY", timeout_s=5)[0] == 0x0000


@pytest.mark.parametrize(("host", "url"), [
    ("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80"),
    ("fd00::7", "http://[fd00::7]:80"), ("node.example", "http://node.example:80"),
])  # fmt: skip
def test_where_the_worklist_is(host: str, url: str) -> None:
    assert url_of(Web(host=host, port=80)) == url


def test_a_listener_that_refuses_our_title_is_alive() -> None:
    with _echo_scp(require_calling_aet=["MODALITY1"]) as port:
        ok, detail = probe_listener(Listen(port=port))
    assert ok, detail
    assert "refuses" in detail


def test_a_port_where_nobody_listens_is_not_ready() -> None:
    assert probe_listener(Listen(port=free_port()))[0] is False


def test_the_ledger_answers(tmp_path: Path) -> None:
    with closing(open_ledger(Configuration(data_dir=tmp_path))) as ledger:
        assert probe_ledger(ledger)[0] is True


def test_without_models_a_node_is_not_ready() -> None:
    assert probe_models(Configuration(models=Models(cxr="", bct=""))) == (False, "no model is configured")
    assert probe_models(Configuration(models=Models(cxr="no-such-bundle")))[0] is False


@pytest.mark.parametrize(("least", "ready"), [(0, True), (1e9, False)])
def test_a_node_without_room_is_not_ready(tmp_path: Path, least: float, ready: bool) -> None:
    """Every C-STORE is refused then: whoever sends by what /readyz says must hear of it."""
    found, told = probe_disk(Configuration(data_dir=tmp_path, listen=Listen(min_free_gib=least)))
    assert found is ready
    assert ("below listen.min_free_gib" in told) is not ready


def test_without_a_broker_the_roles_are_unknown(tmp_path: Path) -> None:
    config = Configuration(data_dir=tmp_path, broker=Broker(url=f"redis://127.0.0.1:{free_port()}/0"))
    with closing(open_ledger(config)) as ledger:
        probes = default_probes(config, ledger)
        assert probe_broker(config)[0] is False
        assert probes["dispatcher"]()[0] is False
    assert set(probes) == {
        "listener",
        "disk",
        "ledger",
        "broker",
        "score worker",
        "prepare worker",
        "dispatcher",
        "models",
    }


@pytest.mark.redis
def test_a_role_is_alive_while_its_sign_of_life_is_on_the_broker(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis") as url:
        config = Configuration(data_dir=tmp_path, broker=Broker(url=url))
        assert probe_broker(config)[0] is True
        with closing(open_ledger(config)) as ledger, connect(config) as client:
            probe = default_probes(config, ledger)["score worker"]
            assert probe()[0] is False
            client.set("triage:alive:score:host:1", 1)
            assert probe() == (True, "1 alive")
            client.delete("triage:alive:score:host:1")
            assert probe()[0] is False
