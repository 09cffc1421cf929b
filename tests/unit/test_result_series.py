"""Series of results have numbers of their own in a study, keep them, and are known when they come back."""

from __future__ import annotations

from pathlib import Path

from appliance.dicom.header import Facts
from appliance.journal.database import Journal
from appliance.journal.instances import Recorded, record
from appliance.journal.series import number_result_series
from tests.dicom_samples import CtSeries
from tests.journal_samples import PACS, image, open_journal
from tests.result_samples import enhanced, produce, sample_volume

STUDY = "1.2.3"


def numbered(journal: Journal, series: str, wanted: int, study: str = STUDY) -> int:
    with journal.write() as connection:
        return number_result_series(connection, study, series, wanted)


def receive(journal: Journal, uid: str, *, series: str, number: int | None = None) -> Recorded:
    facts = Facts(uid, "1.2", STUDY, series, series_number=number)
    with journal.write() as connection:
        return record(connection, image(uid, series_instance_uid=series, facts=facts.to_json()), PACS)


def test_a_series_gets_the_number_that_it_wants(tmp_path: Path) -> None:
    assert numbered(open_journal(tmp_path), "2.25.1", 9002) == 9002


def test_two_series_of_one_study_never_share_a_number(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    given = [numbered(journal, f"2.25.{series}", 9002) for series in range(4)]
    assert given == [9002, 9003, 9004, 9005]
    assert numbered(journal, "2.25.9", 9002, study="1.2.4") == 9002, "another study"


def test_a_number_of_a_scanner_is_left_to_it(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    receive(journal, "1.2.3.1", series="1.2.3.8", number=9002)
    receive(journal, "1.2.3.2", series="1.2.3.9")
    assert numbered(journal, "2.25.1", 9002) == 9003


def test_the_number_stays_after_a_restart(tmp_path: Path) -> None:
    numbered(open_journal(tmp_path), "2.25.1", 9002)
    journal = open_journal(tmp_path)
    receive(journal, "1.2.3.1", series="1.2.3.8", number=9002)
    assert numbered(journal, "2.25.2", 9002) == 9003
    assert numbered(journal, "2.25.1", 9002) == 9002


def test_every_object_of_a_series_has_its_number(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    volume = sample_volume(tmp_path / "images", CtSeries(slices=3, rows=8, columns=8))
    numbered(journal, "2.25.1", 9002, str(volume.sources[0].StudyInstanceUID))

    def numbering(study: str, series: str, wanted: int) -> int:
        return numbered(journal, series, wanted, study)

    made = list(produce(enhanced(volume.voxels), volume, numbering=numbering))
    assert [one.dataset.SeriesNumber for one in made] == [9003, 9003, 9003]


def test_a_result_that_was_renamed_on_its_way_is_known_by_its_series(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    numbered(journal, "2.25.1", 9002)
    assert receive(journal, "1.9.9", series="2.25.1") is Recorded.OWN_RESULT
    assert receive(journal, "1.9.8", series="1.2.3.8") is Recorded.NEW
