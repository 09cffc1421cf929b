"""The demonstration must notice what is missing at the PACS: here its folder is filled by hand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from tools.demonstrate import cards, page
from tools.demonstrate.card_samples import samples
from tools.demonstrate.evidence import Evidence
from tools.demonstrate.inputs import Series, scanner_series
from tools.demonstrate.page import Result, write_page
from tools.demonstrate.verdict import Row, general_problems, rows
from tools.demonstrate.watch import Metrics, is_settled


@pytest.fixture(scope="module")
def ct() -> Series:
    """The one CT image of GE's Rhapsode, a real scanner file."""
    return next(series for series in scanner_series() if series.name.startswith("CT RHAPSODE"))


@pytest.fixture
def pacs(tmp_path: Path, ct: Series) -> Path:
    """A PACS folder that has what was sent."""
    folder = tmp_path / "pacs"
    folder.mkdir()
    for image in ct.images:
        shutil.copy(image.path, folder / f"{image.sop_instance_uid}.dcm")
    return folder


def judge(pacs: Path, series: Series) -> tuple[Row, Evidence]:
    evidence = Evidence(pacs, [series])
    evidence.refresh()
    return rows(evidence, {series.uid: 0.0})[0], evidence


def as_head(series: Series, *, bleed: bool) -> Series:
    return Series(series.uid, series.name, series.images, bleed)


def add_derived(pacs: Path, ct: Series, *, change: int) -> None:
    image = dcmread(ct.images[0].path)
    source = dcmread(ct.images[0].path, stop_before_pixels=True)
    source.ReferencedSOPInstanceUID = source.SOPInstanceUID
    image.SourceImageSequence = [source]
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    pixels = image.pixel_array.copy()
    pixels[10, 10] += change
    image.PixelData = pixels.tobytes()
    image.save_as(pacs / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)


def test_what_arrived_unchanged_is_complete(pacs: Path, ct: Series) -> None:
    row, evidence = judge(pacs, ct)
    assert (row.forwarded, row.enhanced, row.triage, row.problems) == (1, 0, "not analysed", ())
    assert general_problems(evidence, {}) == []


def test_a_missing_original_is_a_problem(pacs: Path, ct: Series) -> None:
    next(pacs.iterdir()).unlink()
    assert judge(pacs, ct)[0].problems == ("1 of 1 originals did not arrive",)


def test_an_original_with_one_other_byte_is_a_problem(pacs: Path, ct: Series) -> None:
    path = next(pacs.iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert judge(pacs, ct)[0].problems == ("1 originals arrived changed",)


def test_a_head_without_results_is_a_problem(pacs: Path, ct: Series) -> None:
    problems = judge(pacs, as_head(ct, bleed=True))[0].problems
    assert problems == ("no enhanced series arrived", "no triage report arrived")


def test_enhanced_images_must_differ_from_their_source(pacs: Path, ct: Series) -> None:
    add_derived(pacs, ct, change=0)
    row, _ = judge(pacs, ct)
    assert row.enhanced == 1
    assert row.problems == ("1 enhanced images have the pixels of their source",)


def test_two_enhanced_images_of_one_source_are_a_problem(pacs: Path, ct: Series) -> None:
    add_derived(pacs, ct, change=1)
    add_derived(pacs, ct, change=2)
    assert judge(pacs, ct)[0].problems == ("2 enhanced images arrived for 1",)


def test_strangers_and_copies_are_problems(pacs: Path, ct: Series, tmp_path: Path) -> None:
    path = next(pacs.iterdir())
    shutil.copy(path, pacs / f"{path.stem}.again1.dcm")
    stranger = dcmread(path)
    stranger.SOPInstanceUID = stranger.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    stranger.save_as(pacs / f"{stranger.SOPInstanceUID}.dcm", enforce_file_format=True)
    _, evidence = judge(pacs, ct)
    problems = general_problems(evidence, {})
    assert any(problem.endswith("arrived more than once") for problem in problems)
    assert any(problem.endswith("was never sent and names no source") for problem in problems)


def test_results_that_the_appliance_counts_but_the_pacs_lacks_are_problems(pacs: Path, ct: Series) -> None:
    _, evidence = judge(pacs, ct)
    assert general_problems(evidence, {("head-ct-triage", "positive"): 1.0}) == [
        "positive: the appliance counts 1, the PACS has 0"
    ]
    assert general_problems(evidence, {("ct-denoise", "failed"): 2.0}) == ["2 jobs failed"]


def test_it_is_settled_only_when_nothing_waits() -> None:
    done: Metrics = {
        "appliance_series": {("planned",): 1.0, ("skipped",): 2.0},
        "appliance_jobs": {("ct-denoise", "done"): 1.0, ("ct-denoise", "queued"): 0.0},
        "appliance_outbox_deliveries": {("pacs", "original", "stored"): 9.0},
    }
    assert is_settled(done, 3)
    assert not is_settled(done, 4)
    assert not is_settled({**done, "appliance_series": {("open",): 1.0, ("planned",): 2.0}}, 3)
    assert not is_settled({**done, "appliance_jobs": {("ct-denoise", "running"): 1.0}}, 3)
    assert not is_settled({**done, "appliance_outbox_deliveries": {("pacs", "result", "pending"): 1.0}}, 3)


def test_the_page_shows_pictures_and_names_problems(pacs: Path, ct: Series, tmp_path: Path) -> None:
    add_derived(pacs, ct, change=5)
    row, evidence = judge(pacs, ct)
    result = Result([row], ["the sky <fell>"], ["ct-denoise: 1 series, modality"], 12.0)
    write_page(tmp_path / "out" / "report.html", result, evidence)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "the sky &lt;fell&gt;" in page
    assert "Something is missing or wrong" in page


@pytest.mark.parametrize("style", [page.STYLE, cards.STYLE])
def test_every_text_of_a_page_stands_out_on_light_and_on_dark(style: Path) -> None:
    light, dark = style.read_text().split("@media (prefers-color-scheme: dark)")
    for scheme in (light, dark):
        shades = {name: luminance(value) for name, value in re.findall(r"--(\w+): #(\w{6})", scheme)}
        grounds = [shades.pop(name) for name in ("page", "card") if name in shades]
        del shades["line"]
        assert len(shades) >= 3
        for name, shade in shades.items():
            for ground in grounds:
                high, low = max(shade, ground), min(shade, ground)
                assert (high + 0.05) / (low + 0.05) >= 4.5, name  # WCAG 2.1 SC 1.4.3


def luminance(colour: str) -> float:
    """Relative luminance of a colour like "1c2430" (WCAG 2.1)."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.slow
def test_there_is_a_card_and_a_report_of_every_outcome_to_look_at(tmp_path: Path) -> None:
    made = list(samples(tmp_path, "light"))
    outcomes = {sample.name.split("-")[0] for sample in made}
    assert outcomes == {"positive", "negative", "not", "retracted"}
    for outcome in {sample.name for sample in made}:
        assert sorted(sample.kind for sample in made if sample.name == outcome) == ["sc", "sr"]
