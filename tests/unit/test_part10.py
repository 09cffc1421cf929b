"""The file that we write around a data set: readable by others, and taken apart again byte for byte."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.dicom.part10 import file_header, read_meta
from appliance.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from tests.dicom_samples import CtSeries, ct_image, part10
from tests.support.processes import DCMTK_ENVIRONMENT, program

EXPLICIT = "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
# Whatever a peer may put into its command set: leading zeros, letters, too long, even empty.
UID_TEXTS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\"), max_size=80
)
AE_TITLES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\"), max_size=16
)


def header(
    *, sop_class: str = CT, instance: str = "1.2.3", syntax: str = EXPLICIT, source: str = "SCANNER"
) -> bytes:
    return b"\0" * 128 + file_header(
        sop_class_uid=sop_class,
        sop_instance_uid=instance,
        transfer_syntax_uid=syntax,
        source_ae_title=source,
        receiving_ae_title="EDGE",
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
    )


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(UID_TEXTS, UID_TEXTS, AE_TITLES, st.binary(max_size=300))
def test_any_uid_text_and_any_data_set_come_back(
    tmp_path: Path, sop_class: str, instance: str, source: str, data_set: bytes
) -> None:
    path = tmp_path / "file.dcm"
    path.write_bytes(header(sop_class=sop_class, instance=instance, source=source) + data_set)
    file = read_meta(path)
    assert file.transfer_syntax_uid == EXPLICIT
    assert file.source_ae_title == source.strip()
    assert file.receiving_ae_title == "EDGE"
    meta = pydicom.filereader.read_file_meta_info(path)
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (sop_class, instance)


def test_others_read_the_file(tmp_path: Path) -> None:
    data = part10(ct_image(CtSeries(), 0))
    whole = pydicom.dcmread(io.BytesIO(data))
    start = 144 + whole.file_meta.FileMetaInformationGroupLength
    path = tmp_path / "file.dcm"
    path.write_bytes(header(instance=whole.SOPInstanceUID) + data[start:])
    again = pydicom.dcmread(path)
    assert again == whole
    assert again.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert again.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert read_meta(path).source_ae_title == "SCANNER"
    dump = subprocess.run(
        [program("/usr/bin/dcmdump", "dcmtk"), "--quiet", path],
        env=DCMTK_ENVIRONMENT,
        capture_output=True,
        encoding="latin-1",
        check=True,
    )
    assert whole.SOPInstanceUID in dump.stdout


@pytest.mark.parametrize("odd", ["1.2.3", "1.2.34"])
def test_values_are_padded_to_an_even_length(odd: str) -> None:
    assert len(header(instance=odd, source="ABC")) % 2 == 0
