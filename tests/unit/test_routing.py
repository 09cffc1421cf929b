"""Which destinations get what: rules by source, model and outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.config.load import load
from appliance.config.schema import Config
from appliance.dicom.header import Facts
from appliance.domain.errors import Misconfigured
from appliance.services.routing import Source, explain, originals_to, results_to

FACTS = Facts("1.2", "1.2.3", "1.2.4", "1.2.5", modality="CT", station_name="CT1")
CT1 = Source("CT", "EDGE", FACTS.to_json())
CT1_RESEARCH = Source("CT", "EDGE_RESEARCH", FACTS.to_json())
MR = Source("MR", "EDGE", Facts("1.2", "1.2.3", "1.2.4", "1.2.5", modality="MR").to_json())


def configured(tmp_path: Path, **rules: dict[str, list[str]]) -> Config:
    """A configuration with one destination for each rule."""
    path = tmp_path / "site.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "station": {"ae_title": "EDGE", "other_ae_titles": ["EDGE_RESEARCH"]},
                "storage": {"path": "var"},
                "destinations": {
                    name: {"ae_title": "PACS", "host": "pacs", "port": 104, "only": only}
                    for name, only in rules.items()
                },
                "pipelines": [
                    {"model": "ct-denoise", "destinations": list(rules)},
                    {"model": "head-ct-triage", "destinations": list(rules)},
                ],
            },
            sort_keys=False,
        )
    )
    return load(path)


@pytest.mark.parametrize(
    ("only", "sources"),
    [
        ({}, [CT1, CT1_RESEARCH, MR]),
        ({"modality": ["CT", "PT"]}, [CT1, CT1_RESEARCH]),
        ({"station_name": ["CT1"]}, [CT1, CT1_RESEARCH]),
        ({"called_ae_title": ["EDGE_RESEARCH"]}, [CT1_RESEARCH]),
        ({"modality": ["MR"], "station_name": ["CT1"]}, []),
        ({"model": ["ct-denoise"], "outcome": ["enhanced"]}, [CT1, CT1_RESEARCH, MR]),
    ],
)
def test_originals_go_where_their_source_fits(
    tmp_path: Path, only: dict[str, Any], sources: list[Source]
) -> None:
    config = configured(tmp_path, archive=only)
    assert [one for one in (CT1, CT1_RESEARCH, MR) if originals_to(config, one)] == sources


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ({}, ["enhanced", "positive", "negative"]),
        ({"model": ["head-ct-triage"]}, ["positive", "negative"]),
        ({"outcome": ["positive", "enhanced"]}, ["enhanced", "positive"]),
        ({"outcome": ["positive"], "modality": ["MR"]}, []),
    ],
)
def test_results_go_where_source_model_and_outcome_fit(
    tmp_path: Path, only: dict[str, Any], expected: list[str]
) -> None:
    config = configured(tmp_path, viewer=only, everything={})
    results = {"enhanced": "ct-denoise", "positive": "head-ct-triage", "negative": "head-ct-triage"}
    sent = {word: results_to(config, ["viewer"], CT1, model, word) for word, model in results.items()}
    assert [word for word, names in sent.items() if names == ("viewer",)] == expected


def test_each_destination_has_rules_of_its_own(tmp_path: Path) -> None:
    config = configured(tmp_path, ct={"modality": ["CT"]}, mr={"modality": ["MR"]}, everything={})
    assert originals_to(config, CT1) == ("ct", "everything")
    assert originals_to(config, MR) == ("mr", "everything")


def test_rules_are_explained(tmp_path: Path) -> None:
    assert explain(configured(tmp_path, everything={})) == []
    viewer = {"modality": ["CT", "PT"], "model": ["head-ct-triage"], "outcome": ["positive"]}
    assert explain(configured(tmp_path, viewer=viewer, everything={})) == [
        "destination viewer: originals, modality CT or PT",
        "destination viewer: results of head-ct-triage, modality CT or PT, outcome positive",
    ]
    (*_, last) = explain(configured(tmp_path, ct={"modality": ["CT"]}, mr={"modality": ["MR"]}))
    assert last.startswith("originals that fit no rule go nowhere")


def test_a_rule_that_can_never_fit_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        configured(tmp_path, pacs={"called_ae_title": ["EDGE", "EGDE"], "model": ["ct-denoize"]})
    assert [problem.partition(" (line")[0] for problem in caught.value.problems] == [
        "destinations.pacs.only.called_ae_title.1: 'EGDE' is not a title of the appliance",
        "destinations.pacs.only.model.0: 'ct-denoize' is not the model of a pipeline",
    ]
