"""`appliance deliveries`, as an operator types it, on a journal without a running appliance."""

from __future__ import annotations

import json
import pwd
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.domain.types import Postponed, Refused, Stored
from appliance.journal import deliveries
from appliance.journal.database import Journal
from appliance.journal.instances import record
from appliance.observe.log import hashed
from tests.journal_samples import image, open_journal

UIDS = ("1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4")
REFUSED, POSTPONED, STORED, WAITING = 1, 2, 3, 4


class Outbox:
    """A configuration and a journal with one delivery of each kind."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "site.yaml"
        self.config.write_text(
            "station: {ae_title: EDGE}\nstorage: {path: .}\n"
            "destinations: {pacs: {ae_title: PACS, host: pacs, port: 104}}\n"
        )
        self.journal = open_journal(folder)
        with self.journal.write() as connection:
            for uid in UIDS:
                record(connection, image(uid), ["pacs"])
            record(
                connection, image("1.9", study_instance_uid="1.9.9", series_instance_uid="1.9.1"), ["away"]
            )
            refused, postponed, stored = deliveries.claim(connection, "pacs", limit=3)
            deliveries.settle(connection, refused, Refused("not wanted", 0xC000), delay_s=0)
            deliveries.settle(connection, postponed, Postponed("full", 0xA700), delay_s=500)
            deliveries.settle(connection, stored, Stored(0), delay_s=0)

    def run(self, command: str, *arguments: str) -> Any:
        return CliRunner().invoke(app, ["deliveries", command, "--config", str(self.config), *arguments])

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        answer = self.run("list", "--json", *arguments)
        assert answer.exit_code == 0, answer.output
        rows: list[dict[str, Any]] = json.loads(answer.output)
        return rows

    def state(self, delivery: int) -> str:
        (row,) = [row for row in self.listed(*STATES) if row["id"] == delivery]
        return str(row["state"])

    def last_event(self, delivery: int) -> dict[str, str]:
        answer = self.run("show", str(delivery), "--json")
        event: dict[str, str] = json.loads(answer.output)["history"][-1]
        return event


STATES = [
    argument
    for state in ("pending", "sending", "stored", "committed", "rejected", "dropped")
    for argument in ("--state", state)
]


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    yield Outbox(tmp_path)


def test_what_is_not_done_is_listed_without_identifiers(outbox: Outbox) -> None:
    rows = {row["id"]: row for row in outbox.listed()}
    assert sorted(rows) == [REFUSED, POSTPONED, WAITING, 5]
    assert rows[REFUSED]["state"] == "rejected"
    assert (rows[REFUSED]["status"], rows[REFUSED]["reason"]) == ("C000", "not wanted")
    assert rows[REFUSED]["study"] == hashed("1.2.3")
    assert 490 < rows[POSTPONED]["due_s"] <= 500
    for shown in (outbox.run("list").output, outbox.run("show", "1").output, json.dumps(list(rows.values()))):
        assert "1.2.3.1" not in shown
    assert "1.2.3.1" in outbox.run("list", "--identifiers").output


def test_a_list_can_be_narrowed(outbox: Outbox) -> None:
    assert [row["id"] for row in outbox.listed("--destination", "away")] == [5]
    assert [row["id"] for row in outbox.listed("--state", "rejected")] == [REFUSED]
    assert [row["id"] for row in outbox.listed("--study-hash", hashed("1.9.9"))] == [5]
    assert [row["id"] for row in outbox.listed("--limit", "1")] == [REFUSED]
    assert outbox.run("list", "--state", "nonsense").exit_code == 2
    assert outbox.run("list", "--study-hash", "0123").exit_code == 1


def test_a_retry_is_due_now(outbox: Outbox) -> None:
    assert outbox.run("retry", "--destination", "pacs").output == "retry: 2 deliveries\n"
    with outbox.journal.write() as connection:
        assert [one.id for one in deliveries.claim(connection, "pacs", limit=9)] == [POSTPONED, WAITING]


def test_a_release_sends_what_was_rejected_and_says_who_and_why(outbox: Outbox) -> None:
    answer = outbox.run("release", "--destination", "pacs", "--reason", "the PACS was mended")
    assert (answer.exit_code, answer.output) == (0, "release: 1 deliveries\n")
    assert outbox.state(REFUSED) == "pending"
    event = outbox.last_event(REFUSED)
    assert (event["event"], event["source"], event["target"]) == ("requeue", "rejected", "pending")
    operator, _, reason = event["detail"].partition(": ")
    assert reason == "the PACS was mended"
    assert operator in [user.pw_name for user in pwd.getpwall()]


def test_what_was_dropped_can_be_released_by_its_id(outbox: Outbox) -> None:
    assert outbox.run("drop", "1", "4", "--reason", "test images").exit_code == 0
    assert (outbox.state(REFUSED), outbox.state(WAITING)) == ("dropped", "dropped")
    assert outbox.run("release", "4", "--reason", "no, they are real").exit_code == 0
    assert outbox.state(WAITING) == "pending"
    assert outbox.last_event(WAITING)["detail"].endswith(": no, they are real")


def test_a_drop_of_a_destination_leaves_what_waits_unless_told(outbox: Outbox) -> None:
    assert outbox.run("drop", "--destination", "away", "--reason", "gone").output == "drop: 0 deliveries\n"
    assert outbox.run("drop", "--destination", "away", "--pending", "--reason", "gone").exit_code == 0
    assert outbox.state(5) == "dropped"


@pytest.mark.parametrize("command", ["release", "drop"])
def test_a_reason_and_a_choice_are_asked_for(outbox: Outbox, command: str) -> None:
    for arguments in (["1"], ["1", "--reason", " "], ["--reason", "x"]):
        assert outbox.run(command, *arguments).exit_code == 2
    assert outbox.run(command, "1", "--destination", "pacs", "--reason", "x").exit_code == 2
    assert outbox.state(REFUSED) == "rejected"


def test_what_cannot_be_done_is_told_and_the_rest_is_done(outbox: Outbox) -> None:
    answer = outbox.run("release", "1", "3", "99", "--reason", "x")
    assert answer.exit_code == 1
    assert "delivery 3:" in answer.output
    assert "delivery 99" in answer.output
    assert outbox.state(REFUSED) == "pending"
    assert outbox.state(STORED) == "stored"


def test_without_a_file_nothing_can_be_sent_again(outbox: Outbox) -> None:
    with outbox.journal.write() as connection:
        connection.execute("UPDATE files SET state = 'purged'")
    answer = outbox.run("release", "1", "--reason", "x")
    assert answer.exit_code == 1
    assert "its file was removed" in answer.output
    assert outbox.state(REFUSED) == "rejected"


def test_before_the_first_start_there_is_nothing_to_see(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("station: {ae_title: EDGE}\nstorage: {path: var}\n")
    answer = CliRunner().invoke(app, ["deliveries", "list", "--config", str(tmp_path / "site.yaml")])
    assert (answer.exit_code, answer.output) == (
        1,
        "there is no journal yet: the appliance was never started\n",
    )
    assert not (tmp_path / "var").exists()


def test_status_tells_of_destinations_that_do_not_work(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    with closing(Journal(outbox.journal.path)) as journal, journal.write() as connection:
        deliveries.reset_circuits(connection, ["pacs"])
        deliveries.note_circuit(connection, "pacs", "open", "PACS does not answer")
    report = json.loads(CliRunner().invoke(app, ["status", "--config", str(outbox.config), "--json"]).output)
    (row,) = report["destinations"]
    assert (row["destination"], row["circuit"], row["reason"]) == ("pacs", "open", "PACS does not answer")
    assert (
        "PACS does not answer" in CliRunner().invoke(app, ["status", "--config", str(outbox.config)]).output
    )
