"""The broker: embedded Valkey and a real Redis; what crosses it, and what happens when it goes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import redis

from tests.support.peers import wait_until
from tests.support.redis import running_redis
from triage.config import Configuration
from triage.errors import BrokerError
from triage.messages import ModelInput, Stage
from triage.transport import (
    PREPARE_TASK,
    REPORT_TASK,
    SCORE_TASK,
    Pulse,
    alive,
    busy_key,
    connect,
    make_app,
    queue_length,
    send,
    socket_path,
)


@contextmanager
def embedded(data_dir: Path) -> Iterator[Configuration]:
    """Run the embedded broker of a data folder as `serve` does."""
    file = data_dir.parent / "triage.toml"
    file.write_text(f'data_dir = "{data_dir}"\n')
    process = subprocess.Popen([sys.executable, "-m", "triage.serve.role", "broker", "--config", str(file)])
    config = Configuration(data_dir=data_dir)
    try:
        wait_until(lambda: _answers(config), what="the embedded broker")
        yield config
    finally:
        process.terminate()
        process.wait(timeout=10)


def _answers(config: Configuration) -> bool:
    try:
        with connect(config) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.redis)])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Configuration]:
    if request.param == "embedded":
        with embedded(tmp_path / "data") as running:
            yield running
    else:
        with running_redis(tmp_path / "redis") as url:
            yield Configuration(data_dir=tmp_path / "data", broker={"url": url})


def test_messages_wait_on_their_queue(config):
    app = make_app(config)
    model_input = ModelInput(modality="CXR", pixels=np.zeros((512, 512), np.uint8))
    send(app, SCORE_TASK, 7, 1, "digest", model_input.to_wire())
    send(app, PREPARE_TASK, 8, 1)
    with connect(config) as client:
        assert queue_length(client, Stage.SCORE) == 1
        assert queue_length(client, Stage.PREPARE) == 1


def test_pickle_is_not_accepted(config):
    app = make_app(config)
    assert set(app.conf.accept_content) == {"json", "msgpack"}
    assert app.conf.task_serializer == "msgpack"
    app.send_task(SCORE_TASK, args=(1,), serializer="pickle")
    send(app, SCORE_TASK, 2)
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, config.model_dump_json()], stdout=subprocess.PIPE, text=True
    )
    try:
        assert worker.stdout is not None
        # The pickled message came first on the queue; the first that runs is the other.
        assert worker.stdout.readline().strip() == "ran (2,)"
    finally:
        worker.terminate()
        worker.wait(timeout=15)


_WORKER = """
import sys
from triage.config import Configuration
from triage.transport import SCORE_TASK, make_app
app = make_app(Configuration.model_validate_json(sys.argv[1]))
@app.task(name=SCORE_TASK)
def score(*args):
    print("ran", args, flush=True)
app.worker_main(["--quiet", "worker", "--pool=solo", "--queues=score", "--loglevel=CRITICAL", "--without-gossip",
                 "--without-mingle", "--without-heartbeat"])
"""


def test_pulse_shows_role_and_job_and_ends(config):
    pulse = Pulse(config, "score")
    pulse.start()
    with connect(config) as client:
        wait_until(lambda: alive(client, "score") == 1, what="the pulse")
        assert alive(client, "prepare") == 0
        with pulse.busy(Stage.SCORE, 5):
            assert client.exists(busy_key(Stage.SCORE, 5))
            assert 0 < client.ttl(busy_key(Stage.SCORE, 5)) <= 12
        assert not client.exists(busy_key(Stage.SCORE, 5))
        pulse.stop()
        assert alive(client, "score") == 0


def test_a_dead_process_of_this_machine_is_not_alive(config):
    with connect(config) as client:
        import socket

        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        client.set(f"triage:alive:score:{socket.gethostname()}:{gone.pid}", 1, ex=60)
        client.set("triage:alive:score:elsewhere:1", 1, ex=60)
        assert alive(client, "score") == 1


def test_a_broker_that_is_away_is_said_so(tmp_path):
    app = make_app(Configuration(data_dir=tmp_path, broker={"url": "redis://127.0.0.1:1/0"}))
    with pytest.raises(BrokerError, match="broker"):
        send(app, PREPARE_TASK, 1, 1)


def test_the_embedded_brokers_messages_outlive_it(tmp_path):
    with embedded(tmp_path / "data") as config:
        send(make_app(config), PREPARE_TASK, 1, 1)
    with embedded(tmp_path / "data") as config, connect(config) as client:
        assert queue_length(client, Stage.PREPARE) == 1


def test_the_embedded_broker_listens_on_no_port_and_for_this_user_only(tmp_path):
    with embedded(tmp_path / "data") as config, connect(config) as client:
        assert client.config_get("port") == {"port": "0"}
        assert socket_path(config).stat().st_mode & 0o777 == 0o600
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_a_long_data_folder_still_has_a_socket(tmp_path):
    with embedded(tmp_path / ("x" * 120)) as config:
        assert len(str(socket_path(config))) < 100


WORKER = """
import sys
from pathlib import Path
from triage.config import Configuration
from triage.transport import make_app
from workers.request import EndingRequest, end_after_this_task

folder = Path(sys.argv[1])
app = make_app(Configuration.model_validate_json(sys.argv[2]))
app.Task.Request = EndingRequest

@app.task(name="report.build")
def held(job_id, fence):
    (folder / f"begun {job_id}").touch()
    while not (folder / f"go {job_id}").exists():
        pass
    if (folder / f"lost {job_id}").exists():
        end_after_this_task()

options = ["--pool=solo", "--loglevel=ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
app.worker_main(["--quiet", "worker", "--queues=report", *options])
"""


@pytest.mark.redis
def test_a_worker_that_cannot_acknowledge_ends_instead_of_waiting_for_ever(tmp_path: Path) -> None:
    """Kombu would take its one message for unfinished, and never ask for another."""
    with ExitStack() as stack:
        with running_redis(tmp_path / "redis") as url:
            config = Configuration(data_dir=tmp_path, broker={"url": url})
            command = [sys.executable, "-c", WORKER, str(tmp_path), config.model_dump_json()]
            worker = stack.enter_context(subprocess.Popen(command))
            stack.callback(worker.kill)
            for number in (1, 2, 3):
                send(make_app(config), REPORT_TASK, number, 1)
                wait_until((tmp_path / f"begun {number}").exists, 60, "the worker to begin")
                if number < 3:
                    (tmp_path / f"go {number}").touch()
        (tmp_path / "go 3").touch()
        assert worker.wait(60) == 1


@pytest.mark.redis
def test_a_worker_that_lost_its_device_ends_when_its_message_is_done_with(tmp_path: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(running_redis(tmp_path / "redis"))
        config = Configuration(data_dir=tmp_path, broker={"url": url})
        for name in ("lost 1", "go 1", "go 2"):
            (tmp_path / name).touch()
        for number in (1, 2):
            send(make_app(config), REPORT_TASK, number, 1)

        def started() -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", WORKER, str(tmp_path), config.model_dump_json()]
            worker = stack.enter_context(subprocess.Popen(command))
            stack.callback(worker.kill)
            return worker

        assert started().wait(60) == 1
        assert not (tmp_path / "begun 2").exists()
        (tmp_path / "begun 1").unlink()
        started()
        wait_until((tmp_path / "begun 2").exists, 60, "the next worker to begin")
        assert not (tmp_path / "begun 1").exists()  # it was not delivered again
