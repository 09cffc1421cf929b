"""The same images make the same objects on any machine, in any order, time zone and folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from appliance.results.card_design import DESIGNS, design_of
from tests.support.pacs import StoreScp
from tests.support.running import RunningAppliance
from tests.support.scanner import send_verbatim
from tests.support.settling import finish, take_in

pytestmark = pytest.mark.slow

KINDS = ["enhanced", "sr", "sc", "seg", "ko"]
OUTCOMES = ["positive", "negative", "not_analysed"]
DEVICE = {"DeviceUID", "InstanceCreatorUID"}
DEVICE_OBSERVER_UID = "121012"  # DCM
EARLY = " early"
"""How the description of an early answer ends: it is about the images that came first."""
PREDECESSOR = "PredecessorDocumentsSequence"


@pytest.fixture(scope="module")
def images(bleed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A head with a bleed, and another whose pixels are cut off in one image."""
    folder = tmp_path_factory.mktemp("damaged")
    damaged = []
    for number, path in enumerate(bleed):
        image = dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(image, keyword, f"{image[keyword].value}.1")
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        if number == 5:
            image.PixelData = image.PixelData[:1000]
        damaged.append(folder / path.name)
        image.save_as(damaged[-1])
    return [*bleed, *damaged]


class Machine:
    """An appliance of its own, started as `prefix` says; `results` is what its PACS got beside the images."""

    def __init__(self, folder: Path, *, title: str, serial: str, zone: str, prefix: tuple[str, ...]) -> None:
        self.pacs = StoreScp(folder / "pacs").start()
        peer = {"ae_title": "PACS", "host": "127.0.0.1", "port": self.pacs.port, "takes": KINDS}
        results = {"sr": OUTCOMES, "sc": OUTCOMES, "ko": ["positive"]}
        settings = {
            "station": {
                "ae_title": title,
                "other_ae_titles": ["EDGE"],
                "device_serial": serial,
                "timezone": zone,
            },
            "destinations": {"pacs": peer},
            "pipelines": [
                {"model": "ct-denoise", "destinations": ["pacs"]},
                {
                    "model": "head-ct-triage",
                    "destinations": ["pacs"],
                    "results": results,
                    "cards": {"design": "light"},
                },
            ],
        }
        self.appliance = RunningAppliance(folder / title, pacs_port=self.pacs.port, settings=settings)
        self._prefix = prefix

    def results(self, images: list[Path]) -> dict[str, Dataset]:
        """Send the images in this order; the result objects by SOP Instance UID."""
        self.appliance.start(prefix=self._prefix)
        try:
            take_in(self.appliance, len(images), lambda: send_verbatim(images, self.appliance.port))
            finish(self.appliance)
        finally:
            self.appliance.stop()
            self.pacs.stop()
        sent = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in images}
        made = {uid: image for uid, image in self.pacs.datasets().items() if uid not in sent}
        return {uid: image for uid, image in made.items() if not image.SeriesDescription.endswith(EARLY)}


def uids(item: Dataset) -> Iterator[tuple[str, str]]:
    """Every UID anywhere in an object, with its keyword, but for those of the appliance itself."""
    names = item.get("ConceptNameCodeSequence")
    if names and names[0].CodeValue == DEVICE_OBSERVER_UID:
        return
    for element in item:
        if element.VR == "SQ" and element.keyword != PREDECESSOR:
            for nested in element.value:
                yield from uids(nested)
        elif element.VR == "UI" and element.keyword not in DEVICE:
            yield element.keyword, str(element.value)


def test_another_machine_makes_the_same_objects(tmp_path: Path, images: list[Path]) -> None:
    one = Machine(
        tmp_path / "one",
        title="EDGE",
        serial="ONE",
        zone="",
        prefix=("env", "TZ=America/St_Johns", "PYTHONHASHSEED=1"),
    ).results(images)
    moved = tmp_path / "moved"
    moved.mkdir()
    again = [Path(shutil.copy(path, moved / f"{number}")) for number, path in enumerate(reversed(images))]
    other = Machine(
        tmp_path / "elsewhere" / "other",
        title="OTHER",
        serial="TWO",
        zone="Asia/Tokyo",
        prefix=("env", "TZ=UTC", "PYTHONHASHSEED=2"),
    ).results(again)
    assert other.keys() == one.keys()
    made = [str(dataset.SOPClassUID.name) for dataset in one.values()]
    assert made.count("CT Image Storage") >= 16
    assert made.count("Comprehensive 3D SR Storage") == 2
    assert made.count("Secondary Capture Image Storage") == 2
    assert made.count("Key Object Selection Document Storage") == 1
    for uid, dataset in one.items():
        assert sorted(uids(other[uid])) == sorted(uids(dataset))
        if dataset.SOPClassUID == SecondaryCaptureImageStorage:
            assert design_of(dataset.pixel_array) is DESIGNS["light"]
        if dataset.Modality == "CT":
            assert other[uid].PixelData == dataset.PixelData
        assert other[uid].DeviceSerialNumber == "TWO" != dataset.DeviceSerialNumber
