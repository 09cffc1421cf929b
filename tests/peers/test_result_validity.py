"""Every produced object passes the standard's checkers, alone and together with its source series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.dicom.volume import Volume, load_volume
from appliance.results import WRITERS
from tests.dicom_samples import CtSeries, write_series
from tests.result_samples import IDENTITY, enhanced, findings, produce
from tests.validators import DCENTVFY, DCIODVFY, DSRDUMP, dcentvfy_problems, dciodvfy_errors, report_text

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DCIODVFY.exists() and DCENTVFY.exists() and DSRDUMP.exists()),
        reason="needs dicom3tools and dcmtk",
    ),
]

RealData = Callable[[str], Path]


@dataclass(frozen=True)
class Case:
    """One source series and everything made of it."""

    sources: list[Path]
    volume: Volume
    produced: dict[str, list[Path]]


def _case(folder: Path, sources: list[Path]) -> Case:
    volume = load_volume(sources)
    produced: dict[str, list[Path]] = {kind: [] for kind in WRITERS}
    for outcome in (enhanced(volume.voxels + 1), findings(volume, positive=True)):
        for number, made in enumerate(produce(outcome, volume, IDENTITY)):
            path = folder / f"{made.kind}-{number:04d}.dcm"
            path.write_bytes(made.encode())
            produced[made.kind].append(path)
    return Case(sources, volume, produced)


SYNTHETIC = {
    "plain": CtSeries(),
    "signed": CtSeries(signed=True, intercept=0.0, bits_stored=16),
    "bare": CtSeries().with_attributes(
        Manufacturer="", StationName="", SeriesDescription="", BodyPartExamined=None, AccessionNumber=""
    ),
    "padded": CtSeries().with_attributes(PixelPaddingValue=24),
    "utf-8": CtSeries().with_attributes(SpecificCharacterSet="ISO_IR 192", PatientName="Größe^Jürgen"),
    "zoned": CtSeries().with_attributes(TimezoneOffsetFromUTC="+0900"),
}
REAL = ["ct/philips-skull-phantom/std-5mm", "ct/human-lung", "ct/philips-tilted-slices-0-19"]


@pytest.fixture(scope="module", params=[*SYNTHETIC, *REAL])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, real_data: RealData
) -> Case:
    folder = tmp_path_factory.mktemp("results")
    if request.param in SYNTHETIC:
        return _case(folder, write_series(folder / "source", SYNTHETIC[request.param]))
    return _case(folder, sorted(real_data(request.param).glob("*.dcm")))


def _in_volume_order(case: Case) -> list[Path]:
    """The source files in the order of the volume, which is that of the derived images."""
    return [case.sources[index] for index in case.volume.geometry.order]


def test_derived_images_add_no_error_to_those_of_their_source(case: Case) -> None:
    assert len(case.produced["enhanced"]) == len(case.sources)
    for source, derived in zip(_in_volume_order(case), case.produced["enhanced"], strict=True):
        assert set(dciodvfy_errors(derived)) <= set(dciodvfy_errors(source)), derived.name


@pytest.mark.parametrize("kind", ["sr", "sc"])
def test_results_have_no_error(case: Case, kind: str) -> None:
    (path,) = case.produced[kind]
    inherited = {error for source in case.sources[:1] for error in dciodvfy_errors(source)}
    assert set(dciodvfy_errors(path)) <= inherited


def test_results_and_source_agree_on_patient_study_and_frame_of_reference(case: Case) -> None:
    produced = [path for paths in case.produced.values() for path in paths]
    before = set(dcentvfy_problems(case.sources))
    assert set(dcentvfy_problems([*case.sources, *produced])) <= before


def test_dcmtk_reads_a_positive_report(case: Case) -> None:
    text = report_text(case.produced["sr"][0])
    for part in ("1386000,SCT", "111242,DCM", "RID49480,RADLEX", '"93.1"', "threshold=62.00 %"):
        assert part in text, part
    assert IDENTITY.model.sha256 in text


def test_a_negative_report_is_valid_and_says_so(tmp_path: Path) -> None:
    volume = load_volume(write_series(tmp_path / "source"))
    (made,) = produce(findings(volume, positive=False), volume, IDENTITY)
    path = tmp_path / "negative.dcm"
    path.write_bytes(made.encode())
    assert dciodvfy_errors(path) == []
    text = report_text(path)
    assert "111241,DCM" in text
    assert "272519000,SCT" in text


def test_the_checkers_notice_what_is_wrong(tmp_path: Path) -> None:
    # A check that cannot fail proves nothing: two patients in one study, and an image without a type.
    paths = write_series(tmp_path / "one", CtSeries(slices=1))
    paths += write_series(tmp_path / "other", CtSeries(slices=2).with_attributes(PatientID="2"), indices=[1])
    assert dcentvfy_problems(paths) != []
    paths = write_series(tmp_path / "wrong", CtSeries(slices=1).with_attributes(ImageType=None))
    assert dciodvfy_errors(paths[0]) != []
