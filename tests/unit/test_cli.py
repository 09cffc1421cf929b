"""The commands as an administrator types them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from appliance.__main__ import app
from appliance.domain.states import DELIVERY, SERIES
from appliance.domain.types import Instance, Origin
from appliance.journal import health
from appliance.journal.database import Journal
from appliance.journal.instances import record
from appliance.journal.series import Skip, complete, plan, waiting
from tests.support.processes import ROOT, free_port
from tests.support.running import ENVIRONMENT

MANIFEST: dict[str, Any] = {
    "id": "ct-denoise",
    "version": "1.2.3",
    "title": "a model",
    "manufacturer": "somebody",
    "intended_use": "tests",
    "weights": {"file": "model.onnx", "sha256": hashlib.sha256(b"weights").hexdigest()},
    "accepts": {"modality": ["CT"], "sop_classes": ["1.2.840.10008.5.1.4.1.1.2"]},
    "task": {"kind": "enhance", "strength": 1.0, "prefix": "AI-DN ", "codes": []},
}


class Site:
    """A configuration file with one model package beside it, and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder / "engines" / "ct-denoise"
        self.package.mkdir(parents=True)
        self.file = folder / "site.yaml"
        (self.package / "model.onnx").write_bytes(b"weights")
        self.write_manifest(MANIFEST)
        self.settings: dict[str, Any] = {
            "station": {"ae_title": "EDGE"},
            "listener": {"port": free_port()},
            "storage": {"path": "./var"},
            "destinations": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": free_port()}},
            "pipelines": [{"model": "ct-denoise", "destinations": ["pacs"]}],
            "engines": {"path": "engines"},
            "monitor": {"port": free_port()},
        }

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        (self.package / "model.yaml").write_text(yaml.safe_dump(manifest))

    def appliance(self, command: str, *arguments: str) -> Result:
        """Run `appliance COMMAND --config site.yaml ...` to its end, in this process."""
        self.write_settings()
        return CliRunner().invoke(app, [command, "--config", str(self.file), *arguments])

    def write_settings(self) -> None:
        self.file.write_text(yaml.safe_dump(self.settings, sort_keys=False))


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m appliance ...` to its end, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "appliance", *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_check_accepts_what_works_and_starts_nothing(site: Site) -> None:
    site.write_settings()
    answer = process("check", "--config", str(site.file))
    assert (answer.returncode, answer.stdout) == (0, "configuration is valid\n")
    assert not (site.folder / "var").exists()


def test_check_names_every_mistake_in_one_line_each(site: Site) -> None:
    site.settings["destinations"]["pacs"]["port"] = 70000
    site.settings["originals"] = ["archive"]
    answer = site.appliance("check")
    assert answer.exit_code == 2
    first, second = answer.stdout.splitlines()
    assert first.startswith("destinations.pacs.port: 70000 is not a valid port")
    assert second.startswith("originals.0: 'archive' is not the name of a destination")


@pytest.mark.parametrize("command", ["check", "run", "models"])
def test_a_missing_model_stops_the_start(site: Site, command: str) -> None:
    site.settings["pipelines"].append({"model": "head-ct-triage", "destinations": ["pacs"]})
    answer = site.appliance(command)
    said = answer.stdout + answer.stderr
    assert answer.exit_code == 2
    assert said.startswith("model head-ct-triage: ")
    assert said.endswith("model.yaml is missing\n")


def test_a_changed_model_is_named(site: Site) -> None:
    """It keeps nothing else from working, so `run` starts: see tests/crash/test_faulty_models.py."""
    (site.package / "model.onnx").write_bytes(b"other weights")
    answer = site.appliance("check")
    assert answer.exit_code == 2
    assert hashlib.sha256(b"other weights").hexdigest() in answer.stdout
    assert len(answer.stdout.splitlines()) == 1
    (row,) = json.loads(site.appliance("models", "--json").stdout)
    assert row["service"].startswith("cannot be run: model ct-denoise: ")


def test_a_missing_model_file_is_named(site: Site) -> None:
    (site.package / "model.onnx").unlink()
    answer = site.appliance("check")
    assert (answer.exit_code, answer.stdout[-42:]) == (2, "cannot be read: No such file or directory\n")


def test_a_pipeline_may_only_ask_for_what_its_model_has(site: Site) -> None:
    site.settings["pipelines"][0]["threshold"] = 0.5
    answer = site.appliance("check")
    assert answer.exit_code == 2
    assert answer.stdout == "pipelines.0.threshold: ct-denoise is of the kind enhance and has no threshold\n"


def test_a_damaged_manifest_is_one_line(site: Site) -> None:
    (site.package / "model.yaml").write_text("id: [")
    answer = site.appliance("check")
    assert answer.exit_code == 2
    assert len(answer.stdout.splitlines()) == 1
    assert "is not valid YAML" in answer.stdout


def test_a_model_has_one_pipeline(site: Site) -> None:
    site.settings["pipelines"] *= 2
    answer = site.appliance("check")
    assert (answer.exit_code, answer.stdout) == (
        2,
        "pipelines.1.model: ct-denoise has a pipeline already\n",
    )


def test_models_shows_versions_checksums_runtimes_and_destinations(site: Site) -> None:
    rows = json.loads(site.appliance("models", "--json").stdout)
    checksum = MANIFEST["weights"]["sha256"]
    assert [reason.partition(":")[0] for reason in rows[0].pop("reasons")] == ["tensorrt", "tensorrt_rtx"]
    assert rows == [
        {
            "id": "ct-denoise",
            "version": "1.2.3",
            "task": "enhance",
            "sha256": checksum,
            "runtime": "onnxruntime-cpu",
            "service": "in service",
            "destinations": ["pacs"],
        }
    ]
    table = site.appliance("models").stdout
    assert checksum[:12] in table
    assert checksum not in table
    assert "onnxruntime-cpu" in table


def test_a_test_of_a_model_says_what_is_wrong(site: Site) -> None:
    """The file is no graph, and the appliance has never run: nothing is in the journal."""
    answer = CliRunner().invoke(app, ["models", "retest", "ct-denoise", "--config", str(site.file)])
    assert answer.exit_code == 2  # the configuration is not written yet
    site.write_settings()
    answer = CliRunner().invoke(app, ["models", "retest", "ct-denoise", "--config", str(site.file)])
    assert answer.exit_code == 1
    assert answer.stderr.startswith("ct-denoise: ONNX Runtime cannot load model.onnx")
    answer = CliRunner().invoke(app, ["models", "retest", "unknown", "--config", str(site.file)])
    assert (answer.exit_code, answer.stderr) == (2, "no pipeline has the model unknown\n")
    assert not (site.folder / "var").exists()


def out_of_service(site: Site, model: str) -> None:
    with closing(Journal(site.folder / "var" / "journal.sqlite")) as journal, journal.write() as connection:
        health.register(connection, {model: "sha"})
        health.take_out(connection, model, "failed 3 series in a row, the last: crashed", retest_s=600.0)


def test_a_model_out_of_service_is_shown_with_since_and_why(site: Site) -> None:
    out_of_service(site, "ct-denoise")
    (row,) = json.loads(site.appliance("models", "--json").stdout)
    assert row["service"].startswith("out of service since 20")
    assert row["service"].endswith(": failed 3 series in a row, the last: crashed")
    (known,) = json.loads(site.appliance("status", "--json").stdout)["models"]
    assert known == {"model": "ct-denoise", "service": row["service"], "failures": 0}
    CliRunner().invoke(app, ["models", "retest", "ct-denoise", "--config", str(site.file)])
    (row,) = json.loads(site.appliance("models", "--json").stdout)
    assert "; the last test of it: ONNX Runtime cannot load model.onnx" in row["service"]


@pytest.mark.slow
def test_a_person_puts_a_model_back_by_a_test_that_succeeds(site: Site) -> None:
    site.settings |= {"engines": {"path": str(ROOT / "engines")}}
    out_of_service(site, "ct-denoise")
    site.write_settings()
    answer = CliRunner().invoke(app, ["models", "retest", "ct-denoise", "--config", str(site.file)])
    assert (answer.exit_code, answer.stderr) == (0, "")
    (row,) = json.loads(site.appliance("models", "--json").stdout)
    assert row["service"] == "in service"


def test_models_without_pipelines_is_empty(site: Site) -> None:
    site.settings["pipelines"] = []
    assert json.loads(site.appliance("models", "--json").stdout) == []


def test_status_before_the_first_start_is_all_zero(site: Site) -> None:
    report = json.loads(site.appliance("status", "--json").stdout)
    assert report["series"] == dict.fromkeys(SERIES.states, 0)
    assert report["deliveries"] == dict.fromkeys(DELIVERY.states, 0)
    assert not (site.folder / "var").exists()


def received(number: int) -> Instance:
    """The journal's facts of an image of a series of its own."""
    return Instance(
        sop_instance_uid=f"1.2.3.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_instance_uid="1.2.3",
        series_instance_uid=f"1.2.{number}",
        modality="CT",
        checksum=f"{number:032x}",
        size=10,
        spool_key=f"key-{number}",
        origin=Origin("SCANNER", "EDGE", "127.0.0.1"),
        facts="{}",
        ours=False,
    )


def test_status_counts_by_state_and_names_why_models_skipped(site: Site) -> None:
    journal = Journal(site.folder / "var" / "journal.sqlite")
    with closing(journal), journal.write() as connection:
        for number in (1, 2):
            record(connection, received(number), ["pacs"])
        (first, _) = waiting(connection)
        assert complete(connection, first, "quiet")
        (complete_one, _) = waiting(connection)
        skips = [Skip("ct-denoise", "localizer", "a scout")]
        assert plan(connection, complete_one, [], skips)
    report = json.loads(site.appliance("status", "--json").stdout)
    assert report["series"] == {"open": 1, "complete": 0, "planned": 0, "skipped": 1}
    assert report["deliveries"] == {**dict.fromkeys(DELIVERY.states, 0), "pending": 2}
    assert report["jobs"] == {"queued": 0, "running": 0, "done": 0, "failed": 0}
    assert report["skips"] == [{"model": "ct-denoise", "reason": "localizer", "count": 1}]
    assert report["outbox"] == [{"destination": "pacs", "kind": "originals", "state": "pending", "count": 2}]
    assert report["oldest_waiting_s"]["pacs"] >= 0
    tables = site.appliance("status").stdout
    assert "1 skipped" in tables
    assert "localizer" in tables


def test_a_worker_refuses_a_wrong_configuration(site: Site) -> None:
    site.settings["monitor"]["port"] = 0
    answer = site.appliance("monitor")
    assert answer.exit_code == 2
    assert answer.stderr.startswith("monitor.port: 0 is not a valid port")


def test_the_configuration_must_be_named() -> None:
    answer = process("check")
    assert answer.returncode == 2
    assert "--config" in answer.stderr
