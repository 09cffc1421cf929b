"""Health of the models in the journal: when one leaves service, what brings it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.journal import health
from appliance.journal.database import Journal
from appliance.journal.health import Health
from tests.journal_samples import open_journal

RETEST_S = 600.0


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    opened = open_journal(tmp_path)
    with opened.write() as connection:
        health.register(connection, {"good": "a", "faulty": "b"})
    return opened


def fail(journal: Journal, *, retest_s: float = RETEST_S) -> bool:
    with journal.write() as connection:
        return health.failed(connection, "faulty", "crashed", failures_in_a_row=3, retest_s=retest_s)


def seen(journal: Journal, model: str = "faulty") -> Health:
    with journal.read() as connection:
        return health.find(connection, model)


def due(journal: Journal) -> str | None:
    with journal.read() as connection:
        return health.due(connection)


def take_out(journal: Journal, *, retest_s: float = RETEST_S) -> None:
    assert [fail(journal, retest_s=retest_s) for _ in range(3)] == [False, False, True]


def history(journal: Journal) -> list[tuple[str, str]]:
    with journal.read() as connection:
        rows = connection.execute("SELECT aggregate_id, event FROM history ORDER BY id").fetchall()
    return [(row["aggregate_id"], row["event"]) for row in rows]


def test_failures_in_a_row_take_a_model_out_and_no_other(journal: Journal) -> None:
    take_out(journal)
    faulty = seen(journal)
    assert (faulty.in_service, faulty.failures) == (False, 3)
    assert faulty.why == "failed 3 series in a row, the last: crashed"
    assert seen(journal, "good").in_service
    assert history(journal) == [("faulty", "take_out")]
    assert due(journal) is None


def test_an_answer_in_between_starts_the_count_anew(journal: Journal) -> None:
    fail(journal)
    fail(journal)
    with journal.write() as connection:
        health.answered(connection, "faulty")
    assert not fail(journal)
    assert (seen(journal).in_service, seen(journal).failures) == (True, 1)


def test_further_failures_of_what_was_running_change_nothing(journal: Journal) -> None:
    take_out(journal)
    assert not fail(journal)
    assert history(journal) == [("faulty", "take_out")]


def test_a_test_that_succeeds_puts_it_back(journal: Journal) -> None:
    take_out(journal, retest_s=0.0)
    assert due(journal) == "faulty"
    with journal.write() as connection:
        health.tested(connection, "faulty", None, retest_s=RETEST_S)
    back = seen(journal)
    assert (back.in_service, back.failures, back.why, back.retest) == (True, 0, None, None)
    assert due(journal) is None


def test_a_test_that_fails_leaves_it_out_until_the_next_one(journal: Journal) -> None:
    take_out(journal, retest_s=0.0)
    with journal.write() as connection:
        health.tested(connection, "faulty", "the values are not finite", retest_s=RETEST_S)
    still = seen(journal)
    assert (still.in_service, still.retest) == (False, "the values are not finite")
    assert still.why is not None
    assert due(journal) is None
    assert history(journal) == [("faulty", "take_out"), ("faulty", "fail")]


def test_a_test_that_fails_takes_nothing_out(journal: Journal) -> None:
    with journal.write() as connection:
        health.tested(connection, "good", "it took too long", retest_s=RETEST_S)
    assert seen(journal, "good").in_service
    assert history(journal) == []


@pytest.mark.parametrize(("sha256", "in_service"), [("b", False), ("c", True)])
def test_only_another_model_file_starts_anew(journal: Journal, sha256: str, in_service: bool) -> None:
    take_out(journal)
    with journal.write() as connection:
        health.register(connection, {"good": "a", "faulty": sha256})
    assert seen(journal).in_service == in_service
    assert seen(journal).failures == (0 if in_service else 3)


def test_a_model_without_a_pipeline_is_forgotten(journal: Journal) -> None:
    take_out(journal, retest_s=0.0)
    with journal.write() as connection:
        health.register(connection, {"good": "a"})
        assert [one.model for one in health.all_models(connection)] == ["good"]
    assert due(journal) is None
    with pytest.raises(KeyError):
        seen(journal)


def test_after_a_reboot_a_test_is_due_at_once(journal: Journal, tmp_path: Path) -> None:
    take_out(journal)
    with journal.write() as connection:
        connection.execute("UPDATE boot SET boot_id = 'another'")
    journal.close()
    assert due(open_journal(tmp_path)) == "faulty"
