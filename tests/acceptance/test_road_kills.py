"""The whole road while the node is killed, or its broker: what was acknowledged is reported, and nothing twice."""

import subprocess
import threading
from contextlib import ExitStack

import pytest
import redis

from tests.support.node import running_node
from tests.support.orthanc import running_orthanc
from tests.support.peers import free_port, wait_until
from tests.support.redis import running_redis
from tests.support.road import assert_all_reported_once, node_for, send_all
from tests.support.studies import chest_studies, dcmsend, head_studies

pytestmark = [pytest.mark.orthanc, pytest.mark.dcmtk, pytest.mark.timeout(600)]

AT_WORK = ("preparing", "scoring", "scored")


# Killed among the slices of a head while 20 radiographs are on their road; with few studies, among the radiographs and
# once more among the slices.
@pytest.mark.parametrize(("chests", "heads", "objects_before_kill"), [(20, 2, [40]), (6, 1, [3, 20])])
def test_a_node_killed_in_the_middle_ends_in_the_same_reports(tmp_path, chests, heads, objects_before_kill):
    studies = chest_studies(chests) + head_studies(heads)
    assert max(objects_before_kill) < sum(len(study.files) for study in studies)
    with running_orthanc(tmp_path / "orthanc") as orthanc, running_node(node_for(tmp_path, orthanc)) as node:
        sent: list[int] = []
        over = threading.Event()

        def send_and_retry() -> None:
            """A modality: what was not acknowledged is sent again."""
            for file in [file for study in studies for file in study.files]:
                while not over.is_set():
                    try:
                        dcmsend([file], node.port)
                    except subprocess.SubprocessError:  # the node is down: that is what is tested
                        over.wait(0.2)
                    else:
                        sent.append(1)
                        break

        sender = threading.Thread(target=send_and_retry, daemon=True)
        sender.start()
        try:
            for count in objects_before_kill:
                wait_until(lambda count=count: len(sent) >= count, 100, f"{count} objects to be sent")
                node.kill()
                node.start()
            sender.join(timeout=200)
            assert not sender.is_alive()
        finally:
            over.set()
        node.wait_for(len(studies), timeout_s=200)
        assert_all_reported_once(orthanc, node, studies)


def test_a_node_killed_while_it_scores_ends_in_the_same_reports(tmp_path):
    studies = chest_studies(6) + head_studies(1)
    with running_orthanc(tmp_path / "orthanc") as orthanc, running_node(node_for(tmp_path, orthanc)) as node:
        send_all(studies, node.port)
        node.wait_for(4, (*AT_WORK, "reported", "delivered"))
        node.wait_for(1, AT_WORK)  # the kill has something to interrupt
        node.kill()
        node.start()
        node.wait_for(len(studies), timeout_s=200)
        assert_all_reported_once(orthanc, node, studies)


@pytest.mark.redis
def test_all_of_redis_is_lost_while_the_node_works_and_every_study_is_reported_once(tmp_path):
    first, rest = chest_studies(8)[:5], chest_studies(8)[5:] + head_studies(1)
    port = free_port()
    with running_orthanc(tmp_path / "orthanc") as orthanc, ExitStack() as broker:
        url = broker.enter_context(running_redis(tmp_path / "redis", port))
        with running_node(node_for(tmp_path, orthanc, broker={"url": url})) as node:
            send_all(first, node.port)
            node.wait_for(1, AT_WORK)
            with redis.Redis.from_url(url) as client:
                assert client.dbsize() > 0
                client.flushall()
            node.wait_for(len(first), ("reported", "delivered"))
            send_all(rest, node.port)
            node.wait_for(1, ("preparing",))
            broker.close()
            send_all(first, node.port)  # it goes on receiving meanwhile
            wait_until(lambda: "Couldn't ack" in node.log.read_text(), 60, "a task to end while there is no broker")
            broker.enter_context(running_redis(tmp_path / "redis", port))
            node.wait_for(len(first + rest))
            assert_all_reported_once(orthanc, node, first + rest)
