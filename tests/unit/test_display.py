"""Pictures for people show what is bright as bright, and say where the patient's left is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from appliance.dicom.outcome import NotAnalysed, Subject
from appliance.dicom.volume import Volume, load_headers, load_volume
from appliance.results import Order, Produced, write_unanalysed
from appliance.results.display import Edges, edges_of, picture, window_of
from tests.dicom_samples import CtSeries, write_series
from tests.modality_samples import cr_image, dx_image, enhanced_image, mr_images, us_image, write_images
from tests.result_samples import BRAIN, HAEMORRHAGE, IDENTITY, as_wanted, findings, produce, sample_volume


def load(folder: Path, *images: Dataset) -> Volume:
    return load_volume(write_images(folder, images))


@pytest.mark.parametrize(
    ("orientation", "edges"),
    [
        ((1, 0, 0, 0, 1, 0), Edges("R", "L", "A", "P")),
        ((-1, 0, 0, 0, 1, 0), Edges("L", "R", "A", "P")),
        ((0, 1, 0, 0, 0, -1), Edges("A", "P", "H", "F")),
        ((0.96, 0.28, 0, 0, 0, -1), Edges("R", "L", "H", "F")),
    ],
)
def test_the_edges_are_named_after_the_patient(
    tmp_path: Path, orientation: tuple[float, ...], edges: Edges
) -> None:
    series = CtSeries(slices=2, rows=8, columns=8, orientation=orientation)
    assert edges_of(sample_volume(tmp_path, series), 0) == edges


def test_projections_and_frames_say_where_left_is_in_their_own_way(tmp_path: Path) -> None:
    assert edges_of(load(tmp_path / "1", dx_image()), 0) == Edges("R", "L", "H", "F")
    assert edges_of(load(tmp_path / "2", enhanced_image()), 0) == Edges("R", "L", "A", "P")
    assert edges_of(load(tmp_path / "3", us_image()), 0) == Edges()


def test_a_head_is_shown_in_the_brain_window_and_the_rest_in_its_own(tmp_path: Path) -> None:
    assert window_of(sample_volume(tmp_path / "head", CtSeries(slices=1)), 0) == (40, 80)
    chest = CtSeries(slices=1, body_part="CHEST").with_attributes(
        WindowCenter=[-600, 40], WindowWidth=[1500, 400]
    )
    assert window_of(sample_volume(tmp_path / "chest", chest), 0) == (-600, 1500)
    assert window_of(load(tmp_path / "mr", *mr_images()), 0) == (500, 1000)
    assert window_of(load(tmp_path / "multi", enhanced_image("MR")), 0) == (40, 400)


def test_without_window_the_values_decide(tmp_path: Path) -> None:
    images = mr_images()
    for image in images:
        del image.WindowCenter
    volume = load(tmp_path, *images)
    shown = picture(volume, 0)
    assert (shown.min(), shown.max()) == (0, 255)
    assert 100 < shown.mean() < 155


@pytest.mark.parametrize("make", [cr_image, dx_image])
def test_both_photometric_interpretations_look_as_they_are_meant(tmp_path: Path, make: object) -> None:
    # The sample's values rise to the lower right: dark there in MONOCHROME1.
    assert callable(make)
    one = picture(load(tmp_path / "1", make(photometric="MONOCHROME1")), 0).astype(int)
    two = picture(load(tmp_path / "2", make(photometric="MONOCHROME2")), 0).astype(int)
    assert one[0, 0, 0] > 200 > 50 > one[-1, -1, 0]
    np.testing.assert_allclose(one, 255 - two, atol=1)


def test_ultrasound_is_shown_in_its_colours(tmp_path: Path) -> None:
    shown = picture(load(tmp_path, us_image(colour=True)), 0)
    assert tuple(shown[22, 18]) == (200, 30, 10)


def capture(made: Produced) -> Dataset:
    return dcmread(io.BytesIO(made.encode()))


def test_cards_of_other_outcomes_are_made_where_asked(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path / "volume", CtSeries(slices=3))
    (negative,) = produce(findings(volume, positive=False), volume, kinds=["sc"])
    headers = load_headers(write_series(tmp_path / "series", CtSeries(slices=3)))
    outcome, subject = NotAnalysed("truncated", "the pixel data are cut off"), Subject(HAEMORRHAGE, BRAIN)
    (unanalysed,) = write_unanalysed(outcome, subject, headers, IDENTITY, Order(["sc"], (), as_wanted))
    (positive,) = produce(findings(volume, positive=True), volume, kinds=["sc"])
    stripes = [tuple(capture(made).pixel_array[40, 5]) for made in (positive, negative, unanalysed)]
    assert stripes == [(255, 98, 72), (120, 170, 220), (255, 200, 60)]
    assert len({made.sop_instance_uid for made in (positive, unanalysed)}) == 2
    assert not unanalysed.urgent
    frame = capture(unanalysed).pixel_array[330:560, 30:990]
    assert np.ptp(frame.reshape(-1, 3), axis=0).max() == 0, "no picture where nothing was seen"
