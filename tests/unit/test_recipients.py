"""A destination gets what it takes: a report, or else the card of it, or else a line in the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import ComprehensiveSRStorage

from appliance.config.destinations import DicomDestination
from appliance.domain.recipients import recipients, stand_ins
from appliance.domain.types import Artifact, Delivery, Refused, Stored
from appliance.journal import deliveries, files, substitutes
from appliance.journal.database import Journal
from tests.dicom_samples import CtSeries
from tests.journal_samples import artifact, claimed_job, finish_job, open_journal, planned_job
from tests.result_samples import findings, produce, sample_volume

REPORT = artifact("2.25.1")
CARD = replace(artifact("2.25.2"), kind="sc", stands_for="2.25.1")
STAND_IN = replace(CARD, instead_only=True)
EVERYTHING = ("enhanced", "sr", "sc", "seg", "ko")


def sent(together: Sequence[Artifact], **takes: Sequence[str]) -> dict[str, list[str]]:
    """Kinds by destination."""
    found: dict[str, list[str]] = {name: [] for name in takes}
    for one in together:
        for name in recipients(one, together, takes):
            found[name].append(one.kind)
    return found


def test_what_stands_in_goes_only_where_the_other_is_not_taken() -> None:
    takes = {"modern": EVERYTHING, "old": ("enhanced", "sc"), "archive": ("sr",), "bare": ("enhanced",)}
    assert sent([REPORT, STAND_IN], **takes) == {
        "modern": ["sr"],
        "old": ["sc"],
        "archive": ["sr"],
        "bare": [],
    }


def test_a_card_that_was_asked_for_goes_to_everyone_who_takes_it() -> None:
    takes = {"modern": EVERYTHING, "old": ("sc",), "archive": ("sr",)}
    assert sent([REPORT, CARD], **takes) == {"modern": ["sr", "sc"], "old": ["sc"], "archive": ["sr"]}


def test_a_segmentation_goes_only_to_those_that_name_it() -> None:
    mask = replace(artifact("2.25.3"), kind="seg")
    usual = DicomDestination(ae_title="PACS", host="pacs", port=104).takes
    assert sent([mask], usual=usual, seg=(*usual, "seg")) == {"usual": [], "seg": ["seg"]}


@pytest.mark.parametrize(
    ("kinds", "takes", "expected"),
    [
        ({"sr"}, ("sr", "sc"), {"sr", "sc"}),
        ({"sr", "sc"}, ("sr", "sc"), {"sr"}),
        ({"sr"}, ("sr",), {"sr"}),
        ({"sr"}, ("sc",), {"sc"}),
        ({"enhanced"}, ("enhanced", "sc"), set()),
    ],
)
def test_a_card_is_made_in_advance_only_where_it_may_be_needed(
    kinds: set[str], takes: tuple[str, ...], expected: set[str]
) -> None:
    assert stand_ins(kinds, {"pacs": takes}) == expected


def test_the_card_of_a_negative_answer_stands_for_its_report(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, CtSeries(slices=2, rows=16, columns=16))
    report, card = produce(findings(volume, positive=False), volume, stand_ins=["sc"])
    assert (card.kind, card.stands_for, card.instead_only) == ("sc", report.sop_instance_uid, True)
    assert (report.stands_for, report.instead_only) == (None, False)
    report, card = produce(findings(volume, positive=True), volume)
    assert (card.stands_for, card.instead_only) == (report.sop_instance_uid, False)


@pytest.mark.parametrize("positive", [True, False])
def test_the_simpler_report_stands_for_the_first_and_the_card_for_the_simpler(
    tmp_path: Path, positive: bool
) -> None:
    volume = sample_volume(tmp_path, CtSeries(slices=2, rows=16, columns=16))
    outcome = findings(volume, positive=positive)
    report, simpler, card = produce(outcome, volume, kinds=["sr"], stand_ins=["sr", "sc"])
    assert [one.kind for one in (report, simpler, card)] == ["sr", "sr", "sc"]
    assert simpler.sop_class_uid == ComprehensiveSRStorage
    assert [one.stands_for for one in (report, simpler, card)] == [
        None,
        report.sop_instance_uid,
        simpler.sop_instance_uid,
    ]
    assert [one.instead_only for one in (report, simpler, card)] == [False, True, True]
    trees = [str(one.dataset.ContentSequence) for one in (report, simpler)]
    assert trees[0] == trees[1]


def test_who_takes_reports_gets_one_of_them() -> None:
    simpler = replace(artifact("2.25.3"), stands_for="2.25.1", instead_only=True)
    card = replace(STAND_IN, stands_for="2.25.3")
    takes = {"modern": EVERYTHING, "old": ("enhanced", "sc")}
    assert sent([REPORT, simpler, card], **takes) == {"modern": ["sr"], "old": ["sc"]}


def test_without_a_report_the_card_stands_for_itself(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, CtSeries(slices=2, rows=16, columns=16))
    (card,) = produce(findings(volume, positive=False), volume, kinds=[], stand_ins=["sc"])
    assert (card.stands_for, card.instead_only) == (None, False)


class Outbox:
    """The journal after a job with these results, and one destination that answers."""

    def __init__(self, folder: Path, results: Sequence[Artifact], takes: Sequence[str] = EVERYTHING) -> None:
        self.journal: Journal = open_journal(folder)
        self.takes = takes
        planned_job(self.journal)
        job = claimed_job(self.journal)
        with self.journal.write() as connection:
            finish_job(connection, job, results, {"pacs": takes})

    def claim(self) -> list[Delivery]:
        """The next results; the originals before them are stored."""
        while True:
            with self.journal.write() as connection:
                claimed = deliveries.claim(connection, "pacs", limit=9)
            if all(one.spool == "results" for one in claimed):
                return claimed
            for one in claimed:
                self.answer(one, Stored(0))

    def answer(self, delivery: Delivery, result: Stored | Refused) -> None:
        with self.journal.write() as connection:
            substitutes.settle(connection, delivery, result, delay_s=0.0, takes=self.takes)

    def states(self) -> dict[str, str]:
        with self.journal.read() as connection:
            rows = connection.execute(
                "SELECT * FROM deliveries WHERE spool = 'results' ORDER BY id"
            ).fetchall()
        return {row["sop_instance_uid"]: row["state"] for row in rows}


REFUSED = Refused("the destination does not accept SOP class 1.2.840.10008.5.1.4.1.1.88.34")


def test_a_report_that_is_refused_is_followed_by_its_card(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(tmp_path, [REPORT, STAND_IN])
    (report,) = outbox.claim()
    outbox.answer(report, REFUSED)
    assert outbox.states() == {"2.25.1": "dropped", "2.25.2": "pending"}
    assert [record.message for record in caplog.records] == ["sent_instead"]
    (card,) = outbox.claim()
    assert (card.sop_instance_uid, card.spool_key, card.priority) == (
        "2.25.2",
        CARD.spool_key,
        report.priority,
    )
    outbox.answer(card, Stored(0))
    assert outbox.states() == {"2.25.1": "dropped", "2.25.2": "stored"}


def test_refusals_go_from_report_to_simpler_report_to_card(tmp_path: Path) -> None:
    simpler = replace(artifact("2.25.3"), stands_for="2.25.1", instead_only=True)
    card = replace(STAND_IN, stands_for="2.25.3")
    outbox = Outbox(tmp_path, [REPORT, simpler, card])
    for uid in ("2.25.1", "2.25.3"):
        (delivery,) = outbox.claim()
        assert delivery.sop_instance_uid == uid
        with outbox.journal.read() as connection:
            kept = {
                file.spool_key: files.claims(connection, file, {}) for file in files.due(connection, limit=9)
            }
        assert any(standing.state == "sending" for standing in kept[card.spool_key].deliveries)
        outbox.answer(delivery, REFUSED)
    (delivery,) = outbox.claim()
    assert delivery.sop_instance_uid == "2.25.2"
    outbox.answer(delivery, Stored(0))
    assert outbox.states() == {"2.25.1": "dropped", "2.25.3": "dropped", "2.25.2": "stored"}


def test_a_card_that_is_refused_too_waits_for_a_person(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, [REPORT, STAND_IN])
    outbox.answer(outbox.claim()[0], REFUSED)
    outbox.answer(outbox.claim()[0], REFUSED)
    assert outbox.states() == {"2.25.1": "dropped", "2.25.2": "rejected"}


def test_a_card_that_goes_there_anyway_is_not_sent_twice(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, [REPORT, CARD])
    report, _card = outbox.claim()
    outbox.answer(report, REFUSED)
    assert outbox.states() == {"2.25.1": "dropped", "2.25.2": "sending"}


def test_a_destination_that_takes_no_card_leaves_the_report_to_a_person(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, [REPORT, STAND_IN], takes=("sr",))
    outbox.answer(outbox.claim()[0], REFUSED)
    assert outbox.states() == {"2.25.1": "rejected"}


def test_a_report_that_is_stored_needs_no_card(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, [REPORT, STAND_IN])
    outbox.answer(outbox.claim()[0], Stored(0))
    assert outbox.states() == {"2.25.1": "stored"}


def test_a_card_stays_in_the_spool_as_long_as_it_may_be_needed(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, [REPORT, STAND_IN])
    with outbox.journal.read() as connection:
        kept = {file.spool_key: files.claims(connection, file, {}) for file in files.due(connection, limit=9)}
    assert [standing.state for standing in kept[STAND_IN.spool_key].deliveries] == ["pending"]
    (report,) = outbox.claim()
    outbox.answer(report, Stored(0))
    with outbox.journal.read() as connection:
        (card,) = [one for one in files.due(connection, limit=9) if one.spool_key == STAND_IN.spool_key]
        assert [standing.state for standing in files.claims(connection, card, {}).deliveries] == ["stored"]
