"""What takes a model out of service in the inference process, and what puts it back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from appliance.config.load import load
from appliance.config.schema import Config
from appliance.domain.errors import GiveUp
from appliance.journal import health
from appliance.journal.database import Journal
from appliance.observe import metrics
from appliance.services.inference.health import ModelHealth
from appliance.services.packages import load_packages
from tests.journal_samples import open_journal
from tests.support import faulty_models
from tests.support.processes import free_port, wait_until

MODEL = "faulty"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    faulty_models.write_package(tmp_path / "engines", MODEL, faulty_models.sound)
    settings = {
        "station": {"ae_title": "EDGE"},
        "storage": {"path": "./var"},
        "destinations": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": free_port()}},
        "pipelines": [{"model": MODEL, "destinations": ["pacs"]}],
        "engines": {"path": "engines"},
        "inference": {"threads": 1, "failures_in_a_row": 2, "retest_s": 1.0, "step_s": 30.0},
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(settings))
    return load(tmp_path / "site.yaml")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return open_journal(tmp_path)


def start(config: Config, journal: Journal) -> ModelHealth:
    """As the inference process does."""
    return ModelHealth(config, journal, load_packages(config))


def why(journal: Journal) -> str | None:
    with journal.read() as connection:
        return health.find(connection, MODEL).why


def taken_out() -> float:
    return metrics.REGISTRY.get_sample_value("appliance_models_taken_out_total", {"model": MODEL}) or 0.0


@pytest.mark.parametrize("reason", ["non_finite_output", "wrong_output_shape"])
def test_answers_that_are_none_take_it_out(config: Config, journal: Journal, reason: str) -> None:
    models, before = start(config, journal), taken_out()
    models.judge(MODEL, "not_analysed", reason)
    assert models.is_in_service(MODEL)
    models.judge(MODEL, "not_analysed", reason)
    assert not models.is_in_service(MODEL)
    assert why(journal) == f"failed 2 series in a row, the last: {reason}"
    assert taken_out() == before + 1


@pytest.mark.parametrize("reason", ["out_of_distribution", "undecodable_pixel_data", "overloaded"])
def test_images_that_it_cannot_judge_are_no_fault_of_it(
    config: Config, journal: Journal, reason: str
) -> None:
    models = start(config, journal)
    models.judge(MODEL, "not_analysed", "non_finite_output")
    for _ in range(5):
        models.judge(MODEL, "not_analysed", reason)
    assert models.is_in_service(MODEL)
    models.judge(MODEL, "not_analysed", "non_finite_output")
    assert not models.is_in_service(MODEL)


@pytest.mark.parametrize("outcome", ["enhanced", "positive", "negative"])
def test_an_answer_starts_the_count_anew(config: Config, journal: Journal, outcome: str) -> None:
    models = start(config, journal)
    for _ in range(3):
        models.failed(MODEL, "crashed")
        models.judge(MODEL, outcome, None)
    assert models.is_in_service(MODEL)


def test_a_restart_forgets_nothing(config: Config, journal: Journal) -> None:
    start(config, journal).failed(MODEL, "crashed")
    models = start(config, journal)
    models.failed(MODEL, "crashed")
    assert not start(config, journal).is_in_service(MODEL)


def test_damaged_weights_are_out_of_service_from_the_start(config: Config, journal: Journal) -> None:
    (config.engines.path / MODEL / "model.onnx").write_bytes(faulty_models.not_finite())
    assert not start(config, journal).is_in_service(MODEL)
    assert "has the SHA-256" in str(why(journal))


def test_what_cannot_be_loaded_is_out_of_service(config: Config, journal: Journal) -> None:
    models = start(config, journal)
    with pytest.raises(GiveUp), models.loading(MODEL):
        raise GiveUp("no graph")
    assert (models.is_in_service(MODEL), why(journal)) == (False, "no graph")


class Killed(BaseException):
    """Stands for the end of the process."""


def die_while_loading(config: Config, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal as it is when the process is killed while it loads the model."""
    with monkeypatch.context() as patch, suppress(Killed), start(config, journal).loading(MODEL):
        patch.setattr(health, "load_ended", lambda *_: None)
        raise Killed


def test_what_kills_the_process_that_loads_it_is_not_loaded_for_ever(
    config: Config, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        die_while_loading(config, journal, monkeypatch)
        assert start(config, journal).is_in_service(MODEL)
    models = start(config, journal)
    loaded = False
    with pytest.raises(GiveUp, match="died 2 times in a row while it"), models.loading(MODEL):
        loaded = True
    assert not loaded
    assert not models.is_in_service(MODEL)


def test_a_load_that_ends_starts_that_count_anew(
    config: Config, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        die_while_loading(config, journal, monkeypatch)
        with start(config, journal).loading(MODEL):
            pass
    assert start(config, journal).is_in_service(MODEL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "passes"),
    [(faulty_models.sound, True), (faulty_models.not_finite, False)],
    ids=["sound", "not finite"],
)
def test_the_test_of_it_comes_by_itself(
    config: Config, journal: Journal, tmp_path: Path, graph: Callable[[], bytes], passes: bool
) -> None:
    faulty_models.write_package(tmp_path / "other", MODEL, graph).rename(tmp_path / "engines" / "new")
    (tmp_path / "engines" / MODEL).rename(tmp_path / "engines" / "old")
    (tmp_path / "engines" / "new").rename(tmp_path / "engines" / MODEL)
    models = start(config, journal)
    models.take_out(MODEL, "failed")
    models.look()  # not due yet

    def tested() -> bool:
        models.look()
        with journal.read() as connection:
            known = health.find(connection, MODEL)
        return known.in_service or known.retest is not None

    wait_until(tested, 60, "the model is tested")
    assert models.is_in_service(MODEL) == passes
    if not passes:
        with journal.read() as connection:
            retest = health.find(connection, MODEL).retest
        assert retest == "the model returned values of probability that are not finite numbers"
