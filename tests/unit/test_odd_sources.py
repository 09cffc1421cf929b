"""Images from anywhere: results are made of them, or given up with a reason, and never anything else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from appliance.dicom.volume import load_volume
from appliance.domain.errors import GiveUp
from appliance.results import WRITERS
from tests.result_samples import enhanced, findings, produce


@pytest.mark.slow
def test_results_are_made_of_every_image_that_pydicom_ships_and_a_model_could_see(
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = Path(pydicom.__file__).parent / "data"
    made, given_up = Counter[str](), Counter[str]()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        try:
            volume = load_volume([path])
        except GiveUp:
            continue
        finding = findings(volume, positive=True)
        assert finding.heat is not None
        finding = replace(finding, mask=finding.heat > 0.5)
        for kind in WRITERS:
            outcome = enhanced(volume.voxels) if kind == "enhanced" else finding
            try:
                for one in produce(outcome, volume, kinds=[kind]):
                    one.encode()
                    made[kind] += 1
            except GiveUp:
                given_up[f"{path.name} {kind}"] += 1
    # It lacks the Frame of Reference UID that a CT image has to have, and a Segmentation of it as well.
    assert given_up == {"693_J2KI.dcm seg": 1}
    assert min(made[kind] for kind in WRITERS) >= 25
    ours = [record for record in caplog.records if record.name.startswith("appliance")]
    assert {record.message for record in ours} <= {"no_segmentation", "result_not_made"}
