"""Every kind of result of every modality passes the standard's checkers, alone and with its source series."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from appliance.dicom.frames import scale_of
from appliance.dicom.outcome import EarlierReport, NotAnalysed, Subject
from appliance.dicom.volume import Volume, load_headers, load_volume
from appliance.results import UNANALYSED_WRITERS, WRITERS, Order, Produced, write_unanalysed
from tests.dicom_samples import CtSeries, write_series
from tests.modality_samples import cr_image, dx_image, enhanced_image, mr_images, us_image, write_images
from tests.result_samples import BRAIN, HAEMORRHAGE, IDENTITY, as_wanted, enhanced, findings, produce
from tests.support.pacs import Orthanc
from tests.support.scanner import data_set_sha256, send_verbatim
from tests.validators import (
    DCENTVFY,
    DCIODVFY,
    DSRDUMP,
    dcentvfy_problems,
    dciodvfy_errors,
    report_page,
    report_text,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DCIODVFY.exists() and DCENTVFY.exists() and DSRDUMP.exists()),
        reason="needs dicom3tools and dcmtk",
    ),
]

RealData = Callable[[str], Path]

CT_SERIES = {
    "plain": CtSeries(),
    "signed": CtSeries(signed=True, intercept=0.0, bits_stored=16),
    "bare": CtSeries().with_attributes(
        Manufacturer="", StationName="", SeriesDescription="", BodyPartExamined=None, AccessionNumber=""
    ),
    "padded": CtSeries().with_attributes(PixelPaddingValue=24),
    "utf-8": CtSeries().with_attributes(SpecificCharacterSet="ISO_IR 192", PatientName="Größe^Jürgen"),
    "zoned": CtSeries().with_attributes(TimezoneOffsetFromUTC="+0900"),
}
MODALITIES: dict[str, Callable[[], list[Dataset]]] = {
    "mr": mr_images,
    "cr-monochrome1": lambda: [cr_image()],
    "cr-monochrome2": lambda: [cr_image(photometric="MONOCHROME2")],
    "dx-monochrome1": lambda: [dx_image()],
    "dx-monochrome2": lambda: [dx_image(photometric="MONOCHROME2")],
    "us": lambda: [us_image()],
    "us-colour": lambda: [us_image(colour=True)],
    "us-cine": lambda: [us_image(colour=True, frames=3)],
    "enhanced-ct": lambda: [enhanced_image("CT")],
    "enhanced-mr": lambda: [enhanced_image("MR")],
}
REAL = {
    "philips-ct": "ct/philips-skull-phantom/std-5mm",
    "philips-ct-tilted": "ct/philips-tilted-slices-0-19",
    "siemens-ct": "ct/human-lung",
    "ge-ct": "single/ct",
    "siemens-mr": "mr/human-brain",
    "uih-mr": "mr/uih-t1-scan/slices-50-105",
    "canon-mr": "mr/canon-dti-first-40",
    "mr-single": "single/mr",
    "siemens-mr-enhanced": "mr/enhanced-multiframe/6_1.dcm",
    "us-jpeg-lossless": "odd/pydicom-data/data/JPGLosslessP14SV1_1s_1f_8b.dcm",
    "us-palette": "odd/pydicom-data/data/OBXXXX1A.dcm",
    "cr-jpeg2000": "odd/pydicom-data/data/RG3_J2KI.dcm",
}
BUNDLED = {"cr-bundled": "dicomdirtests/77654033/CR1/6154", "us-cine-jpeg": "examples_ybr_color.dcm"}
"""Images that pydicom itself brings along."""


@dataclass(frozen=True)
class Case:
    """One source series, and the files that were made of it by kind."""

    sources: list[Path]
    volume: Volume
    produced: dict[str, list[Path]]

    @property
    def inherited(self) -> set[str]:
        """What dciodvfy finds wrong with the sources."""
        return {error for source in self.sources for error in dciodvfy_errors(source)}


def _sources(name: str, folder: Path, real_data: RealData) -> list[Path]:
    if name in CT_SERIES:
        return write_series(folder, CT_SERIES[name])
    if name in MODALITIES:
        return write_images(folder, MODALITIES[name]())
    if name in BUNDLED:
        found = Path(pydicom.__file__).parent / "data" / "test_files" / BUNDLED[name]
        return [found]
    path = real_data(REAL[name])
    # Ten are enough to be a series; every further one says the same.
    return [path] if path.is_file() else sorted(one for one in path.iterdir() if one.is_file())[:10]


def _write(folder: Path, made: list[Produced]) -> list[Path]:
    paths = [folder / f"{one.kind}-{number:04d}.dcm" for number, one in enumerate(made)]
    for path, one in zip(paths, made, strict=True):
        path.write_bytes(one.encode())
    return paths


@pytest.fixture(scope="module", params=[*CT_SERIES, *MODALITIES, *REAL, *BUNDLED])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, real_data: RealData
) -> Case:
    return _case(request.param, tmp_path_factory.mktemp("results"), real_data)


def _case(name: str, folder: Path, real_data: RealData) -> Case:
    sources = _sources(name, folder / "source", real_data)
    volume = load_volume(sources)
    finding = findings(volume, positive=True)
    assert finding.heat is not None
    finding = replace(finding, mask=finding.heat > 0.5)
    better = enhanced(volume.voxels + 1)
    produced = {
        kind: list(produce(better if kind == "enhanced" else finding, volume, kinds=[kind]))
        for kind in WRITERS
    }
    return Case(sources, volume, {kind: _write(folder, made) for kind, made in produced.items()})


def test_derived_images_add_no_error_to_those_of_their_source(case: Case) -> None:
    assert len(case.produced["enhanced"]) == len(case.sources)
    inherited = case.inherited
    for derived in case.produced["enhanced"]:
        assert set(dciodvfy_errors(derived)) <= inherited, derived.name


def test_derived_images_show_what_the_model_made_where_the_source_lies(case: Case) -> None:
    source, derived = case.volume, load_volume(case.produced["enhanced"])
    assert derived.geometry.positions_mm == source.geometry.positions_mm
    assert derived.spacing == source.spacing
    for before, after in zip(source.sources, derived.sources, strict=True):
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
            assert after.get(keyword) == before.get(keyword), keyword
        assert after.get("LossyImageCompression") == "01" or before.get("LossyImageCompression") != "01"
    untouched = np.zeros(source.voxels.shape, np.bool_) if source.padding is None else source.padding
    np.testing.assert_array_equal(
        untouched, np.zeros_like(untouched) if derived.padding is None else derived.padding
    )
    np.testing.assert_array_equal(derived.voxels[untouched], source.voxels[untouched])
    step = max(scale_of(header).slope for header in source.sources)
    change = derived.voxels[~untouched] - source.voxels[~untouched]
    assert abs(float(np.median(change)) - 1.0) <= step / 2


def test_derived_images_of_a_finer_grid_add_no_error_either(case: Case, tmp_path: Path) -> None:
    finer = np.repeat(np.repeat(case.volume.voxels[:], 2, axis=1), 2, axis=2)
    inherited = case.inherited
    made = next(iter(produce(enhanced(finer), case.volume)))
    (path,) = _write(tmp_path, [made])
    assert set(dciodvfy_errors(path)) <= inherited


@pytest.mark.parametrize("kind", sorted(set(WRITERS) - {"enhanced"}))
def test_results_have_no_error(case: Case, kind: str) -> None:
    without_place = len(case.volume.voxels) > 1 and "FrameOfReferenceUID" not in case.volume.sources[0]
    assert len(case.produced[kind]) == (0 if kind == "seg" and without_place else 1)
    inherited = case.inherited
    for path in case.produced[kind]:
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


def test_dcmtk_shows_a_report_as_a_page(case: Case) -> None:
    page = report_page(case.produced["sr"][0])
    assert re.search(r"Intracranial hemorrhage:</b><br>\s*Present", page)
    assert "Not for diagnostic use" in page


@pytest.mark.parametrize("kind", sorted(UNANALYSED_WRITERS))
def test_results_about_what_was_not_analysed_have_no_error(case: Case, tmp_path: Path, kind: str) -> None:
    outcome, subject = NotAnalysed("truncated_pixel_data", "cut off"), Subject(HAEMORRHAGE, BRAIN)
    headers = load_headers(case.sources)
    order = Order([kind], (), as_wanted)
    (path,) = _write(tmp_path, list(write_unanalysed(outcome, subject, headers, IDENTITY, order)))
    assert set(dciodvfy_errors(path)) <= case.inherited
    before = set(dcentvfy_problems(case.sources))
    assert set(dcentvfy_problems([*case.sources, path])) <= before


@pytest.mark.parametrize("kind", ["sr", "sc"])
def test_a_negative_answer_is_valid_and_says_so(tmp_path: Path, kind: str) -> None:
    volume = load_volume(write_series(tmp_path / "source"))
    earlier = EarlierReport("1.2.840.10008.5.1.4.1.1.88.34", "2.25.1", "2.25.2", "2.25.3")
    identity = replace(IDENTITY, revision=2, earlier_report=earlier)
    (path,) = _write(tmp_path, list(produce(findings(volume, positive=False), volume, identity, [kind])))
    assert dciodvfy_errors(path) == []
    if kind == "sr":
        text = report_text(path)
        assert "111241,DCM" in text
        assert "272519000,SCT" in text


def test_the_simpler_reports_are_valid_too(case: Case, tmp_path: Path) -> None:
    finding = findings(case.volume, positive=True)
    made = list(produce(finding, case.volume, kinds=["sr"], stand_ins=["sr"]))
    outcome, subject = NotAnalysed("truncated_pixel_data", "cut off"), Subject(HAEMORRHAGE, BRAIN)
    order = Order(["sr"], ["sr"], as_wanted)
    made += write_unanalysed(outcome, subject, load_headers(case.sources), IDENTITY, order)
    paths = _write(tmp_path, made)
    assert [one.sop_class_uid for one in made] == [Comprehensive3DSRStorage, ComprehensiveSRStorage] * 2
    assert {error for path in paths for error in dciodvfy_errors(path)} <= case.inherited
    assert "threshold=62.00 %" in report_text(paths[1])


def test_orthanc_stores_every_kind_of_every_modality(
    orthanc: Orthanc, tmp_path: Path, real_data: RealData
) -> None:
    names = ["plain", *MODALITIES]
    cases = [_case(name, tmp_path / name, real_data) for name in names]
    produced = [path for case in cases for paths in case.produced.values() for path in paths]
    send_verbatim(produced, orthanc.port)
    stored = orthanc.save_all(tmp_path / "stored")
    assert Counter(map(data_set_sha256, stored)) == Counter(map(data_set_sha256, produced))


def test_the_checkers_notice_what_is_wrong(tmp_path: Path) -> None:
    # A check that cannot fail proves nothing: two patients in one study, and an image without a type.
    paths = write_series(tmp_path / "one", CtSeries(slices=1))
    paths += write_series(tmp_path / "other", CtSeries(slices=2).with_attributes(PatientID="2"), indices=[1])
    assert dcentvfy_problems(paths) != []
    paths = write_series(tmp_path / "wrong", CtSeries(slices=1).with_attributes(ImageType=None))
    assert dciodvfy_errors(paths[0]) != []
