"""No attribute of a patient, and no UID in clear, reaches a log, a metric, a status page or the journal."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmwrite

from tests.conftest import StartAppliance
from tests.dicom_samples import CtSeries, ct_image
from tests.support.pacs import StoreScp
from tests.support.processes import wait_until
from tests.support.scanner import scanner

pytestmark = pytest.mark.slow

SECRETS = {
    "PatientName": "Zyxwvut^Quirina",
    "PatientID": "PID-7391-QX",
    "PatientBirthDate": "19041207",
    "AccessionNumber": "ACC-55-ZQ",
    "ReferringPhysicianName": "Doktorova^Wilhelmina",
    "InstitutionName": "Klinik Nirgendwo",
    "StudyDescription": "SECRETSTUDYTEXT",
}


def image_with_secrets(series: CtSeries, index: int, folder: Path) -> Path:
    image = ct_image(series.with_attributes(**SECRETS), index)
    path = folder / f"{series.series}-{index}.dcm"
    dcmwrite(path, image, enforce_file_format=True)
    return path


def damaged(path: Path, *, cut: int) -> Path:
    """The file without its last `cut` bytes."""
    path.write_bytes(path.read_bytes()[:-cut])
    return path


def without_study(path: Path) -> Path:
    """A file whose data set names no study, so that it cannot be kept as an image."""
    image = ct_image(CtSeries(series="nameless").with_attributes(**SECRETS), 0)
    del image.StudyInstanceUID
    dcmwrite(path, image, enforce_file_format=True)
    return path


def words_of(value: str) -> list[str]:
    return [word for word in value.split("^") if word]


def test_patient_data_stays_where_it_belongs(
    tmp_path: Path, storescp: StoreScp, appliance: StartAppliance
) -> None:
    running = appliance(storescp.port)
    folder = tmp_path / "images"
    folder.mkdir()
    whole = [image_with_secrets(CtSeries(series="whole"), index, folder) for index in range(4)]
    cut = [damaged(image_with_secrets(CtSeries(series="cut"), index, folder), cut=2000) for index in range(3)]
    nameless = without_study(folder / "nameless.dcm")
    with scanner(running.port, [*whole, *cut, nameless]) as sender:
        assert {sender.store(path).status for path in [*whole, *cut]} == {0}
        refused = sender.store(nameless)
    assert refused.status == 0xC000
    storescp.stop()  # what is left to be sent fails, and is logged
    wait_until(lambda: not running.status()["series"].get("open"), 60, "all series are decided")
    wait_until(
        lambda: not running.status()["jobs"].get("queued") and not running.status()["jobs"].get("running"),
        120,
        "all jobs are done",
    )
    seen = "\n".join(
        (
            running.log.read_text(),
            running.get("/metrics"),
            running.command("status").stdout,
            running.command("status", "--json").stdout,
            refused.comment,
            "".join(
                path.read_bytes().decode("latin-1")
                for path in (running.folder / "var").glob("journal.sqlite*")
            ),
        )
    )
    assert "quarantined" in seen
    for value in SECRETS.values():
        for word in words_of(value):
            assert word not in seen
    log_and_metrics = running.log.read_text() + running.get("/metrics")
    uids = {str(uid) for path in whole for uid in identifiers(path)}
    assert not [uid for uid in uids if uid in log_and_metrics]


def identifiers(path: Path) -> list[str]:
    image = ct_image(CtSeries(series="whole"), int(path.stem.rpartition("-")[2]))
    return [image.SOPInstanceUID, image.SeriesInstanceUID, image.StudyInstanceUID]


def test_the_secrets_are_in_what_was_sent(tmp_path: Path) -> None:
    """Else the test above would look for nothing."""
    content = image_with_secrets(CtSeries(series="whole"), 0, tmp_path).read_bytes().decode("latin-1")
    for value in SECRETS.values():
        assert all(word in content for word in words_of(value))
