"""The conformance statement says what the code does, and `docs/conformance.md` is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import build_context

from appliance.config.load import load
from appliance.network.negotiation import PREFERRED_SYNTAXES, storage_contexts
from appliance.results import WRITERS
from appliance.services.administration import conformance_network, conformance_statement
from appliance.services.administration.conformance_objects import made_objects


def section(text: str, heading: str) -> str:
    """What stands under one heading."""
    return text.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]


def test_the_document_is_that_of_the_code() -> None:
    """Run `python -m appliance.services.administration.conformance_statement` and commit, if this fails."""
    assert conformance_statement.DOCUMENT.read_text(encoding="utf-8") == conformance_statement.reference()


def test_what_is_listed_is_accepted() -> None:
    listed = conformance_network.storage_classes()
    assert len(listed) > 150
    contexts = storage_contexts(build_context(UID(uid), ExplicitVRLittleEndian) for uid in listed)
    assert {str(context.abstract_syntax) for context in contexts} == set(listed)
    assert "1.2.840.10008.5.1.4.31" not in listed  # Modality Worklist is no storage
    table = conformance_network.syntax_table()
    assert [line.split(" | ")[2] for line in table.splitlines()[2:]] == list(PREFERRED_SYNTAXES)


def test_every_status_is_in_one_row() -> None:
    rows = conformance_network.received_store_statuses().splitlines()[2:]
    covered: list[int] = []
    for row in rows:
        for span in row.strip("| ").split(" | ")[0].split(", "):
            first, _, last = span.partition("-")
            covered += range(int(first, 16), int(last or first, 16) + 1)
    assert sorted(covered) == list(range(65536))
    (success,) = [row for row in rows if row.startswith("| 0000")]
    assert "B000-BFFF" in success and "done" in success


def test_the_tables_of_objects_say_where_values_come_from() -> None:
    made = {one.kind: one for one in made_objects()}
    assert list(made) == [*WRITERS, "rejection_note"]
    report = {attribute.keyword: attribute.origin for attribute in made["sr"].attributes}
    assert report["PatientID"] == "copied from the source"
    assert report["PreliminaryFlag"] == "fixed: `PRELIMINARY`"
    assert report["StationName"] == "appliance, model and time"
    image = {attribute.keyword: attribute.origin for attribute in made["enhanced"].attributes}
    assert image["RescaleSlope"] == "copied from the source"
    assert image["PixelData"] == "computed of the source"
    assert image["SOPInstanceUID"] == "computed of source, appliance, model and time"


@pytest.mark.slow
def test_a_site_gets_its_own(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "station: {ae_title: AT_HOME}\n"
        "listener: {port: 4242, maximum_pdu: 65536}\n"
        "storage: {path: ./var}\n"
        "destinations:\n"
        "  archive: {ae_title: ARCHIVE, host: 127.0.0.1, port: 104, commitment: true, takes: [sr, seg]}\n"
        "  ris: {kind: hl7, host: 127.0.0.1, port: 2575}\n",
        encoding="utf-8",
    )
    text = conformance_statement.statement(load(site), site.name)
    assert "AE title AT_HOME" in text
    assert "port 4242" in section(text, "6 Network")
    assert "| archive | dicom | ARCHIVE | no | sr, seg | yes |" in text
    assert "65536 bytes" in text
    assert "from a template | yes |" in section(text, "11 Other interfaces")
    assert str(tmp_path) not in text
