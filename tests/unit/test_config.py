"""The configuration file: what works, and the sentence that each mistake gets."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from appliance.config import reference
from appliance.config.load import load
from appliance.config.schema import Config
from appliance.domain.errors import Misconfigured

CONTRACT = """\
station:
  ae_title: EDGE
listener:
  host: 127.0.0.1
  port: 11112
  accept:
    - {ae_title: "*", networks: ["127.0.0.0/8"]}
storage:
  path: ./var
destinations:
  pacs: {ae_title: PACS, host: 127.0.0.1, port: 11113}
pipelines:
  - {model: ct-denoise, destinations: [pacs]}
  - {model: head-ct-triage, destinations: [pacs]}
monitor: {host: 127.0.0.1, port: 9464}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site.yaml"


def read(site: Path, text: str) -> Config:
    site.write_text(text)
    return load(site)


def problems(site: Path, text: str) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        read(site, text)
    return caught.value.problems


def test_the_contract_file_works_as_it_stands(site: Path) -> None:
    config = read(site, CONTRACT)
    assert config.station.ae_title == "EDGE"
    assert config.dicom_destinations["pacs"].port == 11113
    assert [pipeline.model for pipeline in config.pipelines] == ["ct-denoise", "head-ct-triage"]
    assert config.originals_destinations == ("pacs",)


def test_defaults_are_the_documented_ones(site: Path) -> None:
    config = read(site, "station: {ae_title: EDGE}\nstorage: {path: /srv/edge}\n")
    assert config.storage.path == Path("/srv/edge")
    assert config.storage.minimum_free_mb == 1024
    assert (config.listener.host, config.listener.port) == ("0.0.0.0", 11112)
    assert config.listener.maximum_pdu == 131072
    assert config.listener.network_timeout_s == 600
    assert config.listener.tls is None
    assert config.delivery.dimse_timeout_s == 120
    assert config.inference.attempts == 3
    assert (config.monitor.host, config.monitor.port) == ("127.0.0.1", 9464)
    assert config.originals_destinations == ()


def test_only_this_machine_may_send_unless_said_otherwise(site: Path) -> None:
    config = read(site, "station: {ae_title: EDGE}\nstorage: {path: var}\n")
    networks = [network for rule in config.listener.accept for network in rule.networks]
    assert networks == [ip_network("127.0.0.0/8"), ip_network("::1/128")]


def test_paths_are_relative_to_the_file(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    config = read(site, CONTRACT)
    assert config.storage.path == site.parent / "var"
    assert config.journal_path.is_relative_to(config.storage.path)


def test_the_serial_number_stays_the_same(site: Path) -> None:
    first, second = read(site, CONTRACT), read(site, CONTRACT)
    assert first.station.device_serial == second.station.device_serial
    assert len(first.station.device_serial) == 12
    named = CONTRACT.replace("ae_title: EDGE", "ae_title: EDGE\n  device_serial: A-7")
    assert read(site, named).station.device_serial == "A-7"


def test_quiet_times_add_to_the_defaults(site: Path) -> None:
    config = read(site, CONTRACT + "completeness: {quiet_s: {CT: 5}}\n")
    quiet = config.completeness.quiet_for
    assert (quiet("CT"), quiet("MR"), quiet("US"), quiet("DX")) == (5, 30, 60, 10)


def test_originals_may_go_to_some_only(site: Path) -> None:
    text = CONTRACT.replace("pipelines:", "  research: {ae_title: R, host: pc, port: 104}\npipelines:")
    assert read(site, text).originals_destinations == ("pacs", "research")
    assert read(site, text + "originals: [research]\n").originals_destinations == ("research",)
    assert read(site, text + "originals: []\n").originals_destinations == ()


HL7 = "  ris: {kind: hl7, host: ris, port: 2575}\npipelines:"


def test_destinations_of_any_kind_are_used_alike_but_get_no_originals(site: Path) -> None:
    text = CONTRACT.replace("pipelines:", HL7).replace("[pacs]", "[pacs, ris]")
    config = read(site, text)
    assert list(config.message_destinations) == ["ris"]
    assert list(config.dicom_destinations) == ["pacs"]
    assert config.originals_destinations == ("pacs",)
    assert problems(site, text + "originals: [pacs, ris]\n") == [
        "originals.1: 'ris' is not a DICOM destination, so it cannot get originals (line 17)"
    ]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            "kind: hl8",
            "destinations.x: 'hl8' is not a kind of destination: one of 'dicom', 'hl7', 'ups', 'webhook'",
        ),
        (
            "kind: hl7, host: a, prot: 1, port: 1",
            "destinations.x.prot: is not a known setting; did you mean port?",
        ),
        ("kind: hl7, host: a", "destinations.x.port: is required"),
        (
            "kind: hl7, host: a, port: 1, template: none",
            "destinations.x.template: none cannot be read: No such file or directory",
        ),
        ("kind: webhook, url: 'ftp://a/', secret: site.yaml", "'ftp://a/' is not a valid address"),
        ("kind: webhook, url: 'https://me:pw@a/', secret: site.yaml", "is not a valid address"),
        ("kind: webhook, url: 'https://a:0/', secret: site.yaml", "is not a valid address"),
        ("kind: webhook, url: 'https://a/ b', secret: site.yaml", "is not a valid address"),
        ("kind: ups, ae_title: R, host: a, port: 1", "destinations.x.retrieve_ae_title: is required"),
    ],
)
def test_mistakes_in_each_kind_of_destination(site: Path, settings: str, problem: str) -> None:
    text = CONTRACT.replace("pipelines:", f"  x: {{{settings}}}\npipelines:")
    (found,) = problems(site, text)
    assert problem in found
    assert found.endswith("(line 12)")


def test_the_configuration_cannot_be_changed(site: Path) -> None:
    config = read(site, CONTRACT)
    with pytest.raises(ValidationError):
        config.station.ae_title = "OTHER"


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("port: 11113", "port: 70000", "destinations.pacs.port: 70000 is not a valid port (line 11)"),
        ("port: 11113", "port: 0", "destinations.pacs.port: 0 is not a valid port (line 11)"),
        ("port: 11113", "port: true", "destinations.pacs.port: True is not a valid port (line 11)"),
        ("port: 11112", "port: x", "listener.port: 'x' is not a valid port (line 5)"),
        ("port: 9464", "port: 11112", "monitor.port: 11112 is already the port of listener.port (line 15)"),
        (
            "port: 11113",
            "port: 11112",
            "destinations.pacs.port: 11112 on this host is the appliance's own listener (line 11)",
        ),
        ("ae_title: EDGE", "timezone: UTC", "station.ae_title: is required (line 1)"),
        (
            "ae_title: EDGE",
            "ae_title: ABCDEFGHIJKLMNOPQ",
            "station.ae_title: 'ABCDEFGHIJKLMNOPQ' is not a valid AE title "
            "(1 to 16 printable ASCII characters, no backslash) (line 2)",
        ),
        (
            "ae_title: EDGE",
            "ae_title: EDGE\n  timezone: Europe/Nowhere",
            "station.timezone: 'Europe/Nowhere' is not a valid time zone, such as Europe/Berlin (line 3)",
        ),
        (
            "ae_title: EDGE",
            "ae_title: EDGE\n  ae_titel: X",
            "station.ae_titel: is not a known setting; did you mean ae_title? (line 3)",
        ),
        ("monitor:", "monitors:", "monitors: is not a known setting; did you mean monitor? (line 15)"),
        (
            '"127.0.0.0/8"',
            '"10.1.1.1/8"',
            "listener.accept.0.networks.0: '10.1.1.1/8' is not a valid network in CIDR form, "
            "such as 10.1.0.0/16 (line 7)",
        ),
        (
            "model: ct-denoise, destinations: [pacs]",
            "model: ct-denoise, destinations: [pax]",
            "pipelines.0.destinations.0: 'pax' is not the name of a destination (line 13)",
        ),
        (
            "destinations: [pacs]}",
            "destinations: []}",
            "pipelines.0.destinations: must not be empty (line 13)",
        ),
        (
            "model: ct-denoise,",
            "model: ct-denoise, strength: 2,",
            "pipelines.0.strength: 2 is too large: at most 1.0 (line 13)",
        ),
        (
            "monitor:",
            "inference: {threads: two}\nmonitor:",
            "inference.threads: 'two' is not a whole number (line 15)",
        ),
        ("monitor:", "originals: [archive]\nmonitor:", None),
        ("monitor:", "listener: {port: 1}\nmonitor:", "listener: is given twice (line 15)"),
        (
            "monitor:",
            "log: {level: loud}\nmonitor:",
            "log.level: 'loud' is not one of 'debug', 'info', 'warning' or 'error' (line 15)",
        ),
    ],
)
def test_each_mistake_is_named_with_its_line(site: Path, right: str, wrong: str, problem: str | None) -> None:
    expected = problem or "originals.0: 'archive' is not the name of a destination (line 15)"
    assert problems(site, CONTRACT.replace(right, wrong, 1)) == [expected]


def test_all_mistakes_are_named_at_once_in_the_order_of_the_file(site: Path) -> None:
    text = CONTRACT.replace("ae_title: EDGE", "ae_title: ''").replace("port: 11113", "port: 70000")
    text = text.replace("[pacs]", "[pax]", 1).replace("9464", "99999")
    assert [problem.partition(":")[0] for problem in problems(site, text)] == [
        "station.ae_title",
        "destinations.pacs.port",
        "pipelines.0.destinations.0",
        "monitor.port",
    ]


def test_a_group_of_settings_must_be_one(site: Path) -> None:
    assert problems(site, "station: EDGE\nstorage: {path: var}\n") == [
        "station: 'EDGE' is not a group of settings (line 1)"
    ]


def test_tls_to_a_destination_wants_an_authority_and_whole_pairs(site: Path) -> None:
    for name in ("ca.pem", "edge.pem", "edge.key"):
        (site.parent / name).write_text("")

    def with_tls(tls: str) -> str:
        return CONTRACT.replace("port: 11113}", f"port: 11113, tls: {{{tls}}}}}")

    tls = read(site, with_tls("ca: ca.pem, certificate: edge.pem, key: edge.key")).destinations["pacs"].tls
    assert tls is not None
    assert (tls.ca, tls.key, tls.name) == (site.parent / "ca.pem", site.parent / "edge.key", None)
    assert problems(site, with_tls("ca: ca.pem, certificate: edge.pem")) == [
        "destinations.pacs.tls: certificate and key go together (line 11)"
    ]
    assert problems(site, with_tls("certificate: edge.pem, key: edge.key")) == [
        "destinations.pacs.tls.ca: is required (line 11)"
    ]


def test_files_that_tls_needs_must_be_readable(site: Path) -> None:
    (site.parent / "edge.pem").write_text("certificate")
    tls = "\n  tls: {certificate: edge.pem, key: missing.pem}"
    text = CONTRACT.replace("host: 127.0.0.1", f"host: 127.0.0.1{tls}", 1)
    assert problems(site, text) == [
        "listener.tls.key: missing.pem cannot be read: No such file or directory (line 5)"
    ]
    (site.parent / "missing.pem").write_text("key")
    listener = read(site, text).listener
    assert listener.tls is not None
    assert (listener.tls.port, listener.tls.certificate) == (2762, site.parent / "edge.pem")


TRITON = "inference: {{runtime: triton, triton: {{host: {}}}}}\n"


def test_a_triton_server_is_only_used_where_it_is_named(site: Path) -> None:
    triton = read(site, CONTRACT + TRITON.format("gpu.example")).inference.triton
    assert triton is not None
    assert (triton.port, triton.tls, triton.shared_memory) == (8001, None, False)
    assert read(site, CONTRACT).inference.triton is None
    assert problems(site, CONTRACT + "inference: {runtime: triton}\n") == [
        "inference.runtime: 'triton' needs the server in inference.triton (line 16)"
    ]
    text = CONTRACT.replace("model: ct-denoise,", "model: ct-denoise, runtime: triton,")
    assert problems(site, text) == [
        "pipelines.0.runtime: 'triton' needs the server in inference.triton (line 13)"
    ]


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        (
            "gpu, models: {lung: {name: x}}",
            "inference.triton.models.lung: 'lung' is not the model of a pipeline",
        ),
        ("gpu, shared_memory: true", "inference.triton: shared_memory needs a server on this machine"),
        ("gpu, timeout_s: 31", "inference.triton.timeout_s: 31 is more than half of inference.step_s"),
        ("'https://me:secret@gpu'", "is not a valid host name or address"),
    ],
)
def test_mistakes_about_a_triton_server(site: Path, host: str, problem: str) -> None:
    (found,) = problems(site, CONTRACT + TRITON.format(host))
    assert problem in found


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "'::1'"])
def test_memory_is_shared_on_one_machine_only(site: Path, host: str) -> None:
    triton = read(site, CONTRACT + TRITON.format(f"{host}, shared_memory: true")).inference.triton
    assert triton is not None
    assert triton.shared_memory


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"station: [", "is not valid YAML"),
        (b"", "holds no settings"),
        (b"- a\n- b\n", "holds no settings"),
        (b"station: \xff", "is not UTF-8 text"),
        (b"a: &a {b: *a}", "is not a known setting"),
    ],
)
def test_what_is_no_configuration_at_all(site: Path, content: bytes, words: str) -> None:
    site.write_bytes(content)
    with pytest.raises(Misconfigured, match=words):
        load(site)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")


def test_the_reference_is_that_of_the_schema() -> None:
    """Run `python -m appliance.config.reference` and commit, if this fails."""
    assert reference.DOCUMENT.read_text() == reference.configuration_md()
    assert reference.SCHEMA.read_text() == reference.schema_json()


def test_the_reference_describes_every_setting() -> None:
    rows = [line for line in reference.configuration_md().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    for row in rows:
        setting, kind, default, meaning = (cell.strip() for cell in row.strip("|").split(" | "))
        assert all([setting, kind, default]), row
        assert meaning.rstrip().endswith("."), row


def test_the_example_is_the_contract() -> None:
    assert yaml.safe_load((reference.ROOT / "config" / "site.yaml").read_text()) == yaml.safe_load(CONTRACT)
