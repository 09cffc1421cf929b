"""The monitor's port, over HTTP, with and without the rest of the appliance."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from appliance.config.load import load
from appliance.config.schema import Config
from appliance.journal import health
from appliance.journal.database import Journal
from tests.support.processes import free_port, listens, stop, wait_until
from tests.support.running import ENVIRONMENT

RECEIVE = """
import sys
from pathlib import Path
from appliance.observe import exposition
from appliance.observe.process import Process
process = Process("receive", Path(sys.argv[1]))
exposition.expose(Path(sys.argv[1]), "receive")
while not process.stopping.is_set():
    process.wait(60)
"""


class Monitored:
    """A monitor process with its configuration; the rest of the appliance does not run."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "site.yaml"
        self.port = free_port()
        self.file.write_text(
            "station: {ae_title: EDGE}\nstorage: {path: var}\n"
            "destinations: {pacs: {ae_title: PACS, host: 127.0.0.1, port: 11113}}\n"
            f"monitor: {{port: {self.port}}}\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "appliance", "monitor", "--config", str(self.file)], env=ENVIRONMENT
        )
        wait_until(lambda: listens(self.port), 20, "the monitor listens")

    @property
    def config(self) -> Config:
        return load(self.file)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of the answer to GET `path`."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def monitored(tmp_path: Path) -> Iterator[Monitored]:
    started = Monitored(tmp_path)
    yield started
    assert stop(started.process) == 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """One for all tests in which nothing else runs and no journal is written."""
    started = Monitored(tmp_path_factory.mktemp("alone"))
    yield started
    assert stop(started.process) == 0


@contextmanager
def receiving(config: Config) -> Iterator[None]:
    """A process that stands for `receive` as far as the monitor sees."""
    receive = subprocess.Popen([sys.executable, "-c", RECEIVE, str(config.run_directory)], env=ENVIRONMENT)
    try:
        yield
    finally:
        assert stop(receive) == 0


def test_the_room_that_is_left_is_a_metric(alone: Monitored) -> None:
    lines = dict(line.rsplit(" ", 1) for line in alone.get("/metrics")[1].splitlines() if line[0] != "#")
    assert float(lines["appliance_storage_usable_bytes"]) > 0
    assert float(lines["appliance_storage_full_seconds"]) > 0


def test_it_is_healthy_by_itself_but_not_ready(alone: Monitored) -> None:
    assert alone.get("/healthz") == (200, "ok\n")
    assert alone.get("/readyz") == (503, "the receive process does not answer\n")
    assert alone.get("/elsewhere")[0] == 404


def test_it_is_ready_with_receive_and_a_journal(monitored: Monitored) -> None:
    config = monitored.config
    with receiving(config):
        wait_until(lambda: "journal" in monitored.get("/readyz")[1], 20, "receive answers")
        assert monitored.get("/readyz") == (503, "the journal does not exist yet\n")
        Journal(config.journal_path).close()
        assert monitored.get("/readyz") == (200, "ready\n")
    assert monitored.get("/readyz")[0] == 503


def test_metrics_come_without_the_other_processes_and_without_a_journal(alone: Monitored) -> None:
    status, page = alone.get("/metrics")
    assert status == 200
    assert 'appliance_process_up{process="receive"} 0.0' in page
    assert 'appliance_process_up{process="monitor"} 1.0' in page
    assert "appliance_series{" not in page


def test_metrics_count_what_is_in_the_journal(monitored: Monitored) -> None:
    journal = Journal(monitored.config.journal_path)
    with closing(journal), journal.write() as connection:
        connection.execute(
            "INSERT INTO series (series_instance_uid, study_instance_uid, modality, state, first_s, last_s)"
            " VALUES ('1.2', '1.3', 'CT', 'open', 0, 0)"
        )
    page = monitored.get("/metrics")[1]
    assert 'appliance_series{state="open"} 1.0' in page
    assert 'appliance_series{state="planned"} 0.0' in page
    assert 'appliance_outbox_oldest_waiting_seconds{destination="pacs"} 0.0' in page


def test_a_model_out_of_service_is_told_and_leaves_the_appliance_ready(monitored: Monitored) -> None:
    with closing(Journal(monitored.config.journal_path)) as journal, journal.write() as connection:
        health.register(connection, {"faulty": "a", "good": "b"})
        health.take_out(connection, "faulty", "the last: crashed", retest_s=600.0)
    page = monitored.get("/metrics")[1]
    with receiving(monitored.config):
        wait_until(lambda: monitored.get("/readyz")[0] == 200, 20, "receive answers")
        status, ready = monitored.get("/readyz")
    assert 'appliance_model_in_service{model="faulty"} 0.0' in page
    assert 'appliance_model_in_service{model="good"} 1.0' in page
    assert status == 200
    assert re.search(r"^model faulty is out of service since 20\S+: the last: crashed$", ready, re.MULTILINE)
    assert "good" not in ready


def test_a_damaged_journal_does_not_take_the_monitor_down(monitored: Monitored) -> None:
    monitored.config.journal_path.parent.mkdir(parents=True, exist_ok=True)
    monitored.config.journal_path.write_bytes(b"not a database" * 1000)
    status, page = monitored.get("/metrics")
    assert status == 200
    assert "appliance_process_up" in page
    assert monitored.get("/healthz") == (200, "ok\n")


def test_a_port_that_is_taken_is_named(alone: Monitored, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(alone.file.read_text().replace("path: var", "path: other"))
    answer = subprocess.run(
        [sys.executable, "-m", "appliance", "monitor", "--config", str(other)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 2
    assert answer.stderr.splitlines() == [f"monitor.port: {alone.port} is already in use"]
