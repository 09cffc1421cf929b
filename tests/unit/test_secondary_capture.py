"""The card of a positive finding: drawn for people, without a word about the patient."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import SecondaryCaptureImageStorage

from appliance.dicom.outcome import Findings
from appliance.dicom.volume import Volume
from tests.dicom_samples import CtSeries
from tests.result_samples import IDENTITY, findings, produce, sample_volume

SERIES = CtSeries(slices=3)


def card_of(outcome: Findings, volume: Volume) -> FileDataset:
    _, produced = produce(outcome, volume, IDENTITY)
    assert produced.kind == "sc"
    return dcmread(io.BytesIO(produced.encode()))


def halves(card: FileDataset) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The two pictures: key slice, and key slice with heat."""
    pixels = card.pixel_array
    return pixels[140:560, 24:500], pixels[140:560, 524:1000]


def test_a_positive_finding_gets_a_card_and_a_negative_none(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    kinds = [produced.kind for produced in produce(findings(volume, positive=True), volume, IDENTITY)]
    assert kinds == ["sr", "sc"]
    kinds = [produced.kind for produced in produce(findings(volume, positive=False), volume, IDENTITY)]
    assert kinds == ["sr"]


def test_the_card_is_a_secondary_capture_of_the_same_study(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    card = card_of(findings(volume, positive=True), volume)
    assert card.SOPClassUID == SecondaryCaptureImageStorage
    assert card.StudyInstanceUID == volume.sources[0].StudyInstanceUID
    assert card.PatientID == "SYNTHETIC-1"
    assert (card.Modality, card.ConversionType, card.SeriesNumber) == ("OT", "WSD", 9103)
    assert card.ImageType == ["DERIVED", "SECONDARY", "OTHER"]
    assert card.BurnedInAnnotation == "YES"
    assert (card.PhotometricInterpretation, card.BitsAllocated, card.SamplesPerPixel) == ("RGB", 8, 3)
    assert card.SourceImageSequence[0].ReferencedSOPInstanceUID == volume.sources[1].SOPInstanceUID
    assert card.BodyPartExamined == "HEAD"
    assert card.ContentTime == card.TimeOfSecondaryCapture == "113015.250000"
    assert card.pixel_array.shape == (768, 1024, 3)


def test_without_body_part_the_laterality_is_present_and_empty(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES.with_attributes(BodyPartExamined=None))
    assert card_of(findings(volume, positive=True), volume).Laterality in ("", None)


def test_nothing_about_the_patient_is_drawn(tmp_path: Path) -> None:
    one = sample_volume(tmp_path / "one", SERIES)
    other = sample_volume(
        tmp_path / "other",
        SERIES.with_attributes(
            PatientName="Other^Person", PatientID="ID2", AccessionNumber="ACC2", PatientBirthDate="20000101"
        ),
    )
    cards = [card_of(findings(volume, positive=True), volume) for volume in (one, other)]
    assert cards[0].PixelData == cards[1].PixelData


def test_the_heat_is_drawn_where_it_is_and_nowhere_else(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    plain, heated = halves(card_of(findings(volume, positive=True), volume))
    y, x = np.nonzero(np.abs(plain.astype(int) - heated).sum(axis=2) > 30)
    # The sample's heat has its centre at (+0.2, -0.2) of the half width and height of the square image.
    assert x.mean() == pytest.approx(238 + 0.2 * 210, abs=12)
    assert y.mean() == pytest.approx(210 - 0.2 * 210, abs=12)
    assert len(x) < 0.2 * plain.shape[0] * plain.shape[1]


def test_without_heat_map_both_pictures_are_the_same(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    plain, heated = halves(card_of(replace(findings(volume, positive=True), heat=None), volume))
    assert np.array_equal(plain, heated)


def test_the_key_slice_is_shown_in_the_brain_window(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    plain, _ = halves(card_of(findings(volume, positive=True), volume))
    middle = plain[170:250, 200:280].mean()
    assert middle == pytest.approx(255 * 35 / 80, abs=8)
    assert plain[5, 60].max() == 0


@pytest.mark.parametrize(("spacing", "rows", "columns"), [((1.0, 0.5), 64, 64), ((0.5, 0.5), 96, 48)])
def test_pictures_keep_their_proportions(
    tmp_path: Path, spacing: tuple[float, float], rows: int, columns: int
) -> None:
    series = CtSeries(slices=2, rows=rows, columns=columns, pixel_spacing=spacing)
    volume = sample_volume(tmp_path, series)
    plain, _ = halves(card_of(findings(volume, positive=True), volume))
    letters = [(slice(0, 44), slice(216, 260)), (slice(376, 420), slice(0, 260))]
    letters += [(slice(186, 234), slice(0, 44)), (slice(186, 234), slice(432, 476))]
    picture = plain.copy()
    for place in letters:
        picture[place] = 0
    y, x = np.nonzero(picture.sum(axis=2) > 300)
    height, width = y.max() - y.min(), x.max() - x.min()
    assert height / width == pytest.approx(2.0, rel=0.06)


def test_the_score_and_the_threshold_are_drawn_to_scale(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    low, high = (
        card_of(replace(findings(volume, positive=True), score=score), volume).pixel_array[627:646, 24:500]
        for score in (0.7, 0.9)
    )
    alert = np.array([255, 98, 72])
    filled = [np.flatnonzero((bar[10] == alert).all(axis=1)).max() / 476 for bar in (low, high)]
    assert filled == pytest.approx([0.7, 0.9], abs=0.01)
    mark = np.flatnonzero((low[10] == (240, 242, 245)).all(axis=1))
    assert mark.mean() / 476 == pytest.approx(0.62, abs=0.01)


def test_long_words_do_not_leave_the_card(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    outcome = findings(volume, positive=True)
    long = replace(outcome, finding=replace(outcome.finding, meaning="Extraordinarily " * 4))
    margin = card_of(long, volume).pixel_array[0:90, 1004:]
    assert np.all(margin == margin[0, 0])
