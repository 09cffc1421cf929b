"""What is urgent goes first and says so, seen on the wire."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.support.capture import captured, store_requests
from tests.support.pacs import StoreScp
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, Trouble
from tests.support.raw_objects import EXPLICIT, raw_object
from tests.support.running import RunningAppliance
from tests.support.settling import finish, metric, take_in
from tools.campaigns.raw_sender import Object, read_object, send_raw

pytestmark = pytest.mark.slow

STUDIES, OBJECTS = 20, 100
"""The backlog: so many studies with so many small objects each, none of which a model takes."""
AHEAD = 100
"""How many objects of the backlog may leave before the urgent ones: two batches that were begun."""
MEDIUM, HIGH = 0, 1
SETTINGS = {
    "pipelines": [{"model": "head-ct-triage", "destinations": ["pacs"]}],
    "delivery": {"retry_minimum_s": 0.2, "retry_maximum_s": 1.0},
}


@pytest.fixture
def flagged(bleed: list[Path]) -> list[Object]:
    """A study in which the model finds something."""
    return [read_object(path) for path in bleed]


@pytest.fixture
def quiet(clear: list[Path]) -> list[Object]:
    """A study in which it finds nothing, and reports so."""
    return [read_object(path) for path in clear]


def test_a_flagged_study_overtakes_a_backlog_with_high_priority(
    tmp_path: Path, flagged: list[Object], quiet: list[Object]
) -> None:
    backlog = routine_objects(STUDIES)
    originals = [*backlog, *quiet, *flagged]
    pacs = StoreScp(tmp_path / "pacs")
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=pacs.port, settings=SETTINGS)
    capture = tmp_path / "capture.pcapng"
    try:
        appliance.start()
        take_in(appliance, len(originals), lambda: send_raw(appliance.port, originals))
        wait_until(lambda: metric(appliance, "appliance_jobs", 'state="done"') == 2, 90, "the bleed is found")
        with captured(pacs.port, capture):
            pacs.start()
            finish(appliance)
    finally:
        appliance.stop()
        pacs.stop()
    requests = store_requests(pacs.port, capture)
    sent = [request.sop_instance_uid for request in requests]
    flagged_study = Study(pacs, flagged)
    quiet_study = Study(pacs, quiet)
    assert flagged_study.modalities == {"SR", "OT"}
    assert quiet_study.modalities == {"SR"}
    assert set(sent) == uids(originals) | flagged_study.results | quiet_study.results

    positions = sorted(map(sent.index, flagged_study.results))
    assert len(uids(backlog) & set(sent[: positions[-1]])) <= AHEAD, "the results overtake the backlog"
    assert flagged_study.key_images
    assert flagged_study.key_images <= set(sent[: positions[0]]), "but not the image that they are about"

    urgent = {request.sop_instance_uid for request in requests if request.priority == HIGH}
    assert urgent == uids(flagged) | flagged_study.results
    assert {request.priority for request in requests} == {MEDIUM, HIGH}


def test_a_flagged_study_overtakes_a_backlog_that_is_leaving(tmp_path: Path, flagged: list[Object]) -> None:
    backlog = routine_objects(STUDIES // 2)
    pacs = StoreScp(tmp_path / "pacs").start()
    proxy = Proxy(pacs.port, Trouble("slow", delay_s=0.02))
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=proxy.port, settings=SETTINGS)
    try:
        appliance.start()
        send_raw(appliance.port, backlog)
        send_raw(appliance.port, flagged)
        wait_until(lambda: results_stored(appliance) == 2, 60, "the urgent results are delivered")
        arrived = uids_at(pacs)
        proxy.heal()
        finish(appliance)
    finally:
        appliance.stop()
        proxy.stop()
        pacs.stop()
    study = Study(pacs, flagged)
    assert study.modalities == {"SR", "OT"}
    assert study.key_images
    assert study.results | study.key_images <= arrived
    assert len(uids(backlog) - arrived) >= AHEAD, "most of what came before them was still to leave"
    assert uids_at(pacs) == uids(backlog) | uids(flagged) | study.results


def routine_objects(studies: int) -> list[Object]:
    """A backlog of series that the model does not take."""
    return [
        raw_object(EXPLICIT, str(number), study=str(study))
        for study in range(studies)
        for number in range(OBJECTS)
    ]


def results_stored(appliance: RunningAppliance) -> int:
    rows = appliance.status()["outbox"]
    return sum(row["count"] for row in rows if row["kind"] == "results" and row["state"] == "stored")


class Study:
    """What the PACS got about the study of some originals, apart from these."""

    def __init__(self, pacs: StoreScp, originals: list[Object]) -> None:
        others = [path for path in pacs.files if not path.name.startswith("CT.")]
        images = {str(image.SOPInstanceUID): image for image in map(dcmread, others)}
        study = dcmread(BytesIO(originals[0].data_set), force=True).StudyInstanceUID
        found = {uid: image for uid, image in images.items() if image.StudyInstanceUID == study}
        self.results = set(found)
        self.modalities = {str(image.Modality) for image in found.values()}
        self.key_images = {
            str(item.ReferencedSOPInstanceUID)
            for image in found.values()
            for item in image.get("SourceImageSequence", [])
        }


def uids_at(pacs: StoreScp) -> set[str]:
    """The SOP Instance UIDs of what has arrived: storescp names the files so."""
    return {path.name.partition(".")[2] for path in pacs.files}


def uids(objects: list[Object]) -> set[str]:
    return {one.sop_instance_uid for one in objects}
