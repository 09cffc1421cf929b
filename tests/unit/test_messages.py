"""P-DATA-TF and command sets: what is right is read, what is wrong is refused, and nothing else happens."""

from __future__ import annotations

import contextlib
import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF

from appliance.network.messages import Command, ProtocolError, c_store_response, fragments, read_command
from tools.campaigns import wire

CT = "1.2.840.10008.5.1.4.1.1.2"
context_ids = st.integers(0, 127).map(lambda number: 2 * number + 1)
uids = st.from_regex(r"[1-9][0-9]{0,5}(\.[1-9][0-9]{0,9}){1,4}", fullmatch=True)
items = st.tuples(context_ids, st.integers(0, 3), st.binary(max_size=200))


@settings(deadline=None)
@given(st.lists(items, max_size=8))
def test_every_item_of_a_pdu_is_found(made: list[tuple[int, int, bytes]]) -> None:
    body = b"".join(wire.pdv(*item) for item in made)
    found = [
        (one.context_id, one.is_command | one.is_last << 1, bytes(one.data))
        for one in fragments(memoryview(body))
    ]
    assert found == made


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_items_or_refused(body: bytes) -> None:
    taken = 0
    with contextlib.suppress(ProtocolError):
        taken += sum(6 + len(one.data) for one in fragments(memoryview(body)))
        assert taken == len(body)


@pytest.mark.parametrize("announced", [0, 1, 7, 2**31, 2**32 - 1])
def test_an_item_whose_length_lies_is_refused(announced: int) -> None:
    body = struct.pack(">IBB", announced, 1, 3) + b"abcd"
    with pytest.raises(ProtocolError) as refused:
        list(fragments(memoryview(body)))
    assert refused.value.word == "pdv_length"


@settings(deadline=None)
@given(uids, uids, st.integers(0, 0xFFFF), st.integers(0, 2), st.binary(min_size=2, max_size=50))
def test_a_request_of_pynetdicom_is_read(
    sop_class: str, sop_instance: str, message_id: int, priority: int, data: bytes
) -> None:
    request = C_STORE()
    request.MessageID = message_id
    request.AffectedSOPClassUID = UID(sop_class)
    request.AffectedSOPInstanceUID = UID(sop_instance)
    request.Priority = priority
    request.DataSet = BytesIO(data)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    command = b"".join(
        value[1:]
        for primitive in message.encode_msg(1, 64)
        for _, value in primitive.presentation_data_value_list
        if value[0] & 1
    )
    assert read_command(command) == Command(1, message_id, True, sop_class, sop_instance)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_command_or_refused(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read_command(data)


@settings(deadline=None)
@given(st.data())
def test_a_mutated_command_is_read_or_refused(data: st.DataObject) -> None:
    command = bytearray(wire.command_set(wire.store_elements(CT, "1.2.3")))
    for _ in range(data.draw(st.integers(1, 4))):
        command[data.draw(st.integers(0, len(command) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        read_command(bytes(command[: data.draw(st.integers(0, len(command)))]))


@pytest.mark.parametrize("lacking", [0x0100, 0x0800])
def test_a_command_without_what_every_request_has_is_refused(lacking: int) -> None:
    elements = [one for one in wire.store_elements(CT, "1.2.3") if one[0] != lacking]
    with pytest.raises(ProtocolError) as refused:
        read_command(wire.command_set(elements))
    assert refused.value.word == "command_set"


@settings(deadline=None)
@given(
    context_ids,
    uids,
    uids,
    st.integers(0, 0xFFFF),
    st.sampled_from([0x0000, 0xA700, 0xA900, 0xC000]),
    st.text(st.characters(codec="ascii", exclude_characters="\\", categories=["L", "N"]), max_size=64),
    st.none() | st.sampled_from([0x00080016, 0x00080018, 0x0020000D]),
)
def test_pynetdicom_reads_every_response(
    context_id: int,
    sop_class: str,
    sop_instance: str,
    message_id: int,
    status: int,
    comment: str,
    element: int | None,
) -> None:
    command = Command(1, message_id, True, sop_class, sop_instance)
    pdu = P_DATA_TF()
    pdu.decode(c_store_response(context_id, command, status, comment, element))
    message = DIMSEMessage()
    assert message.decode_msg(pdu.to_primitive()), "the message is whole"
    assert message.context_id == context_id
    response = message.message_to_primitive()
    assert isinstance(response, C_STORE)
    assert (response.MessageIDBeingRespondedTo, response.Status) == (message_id, status)
    assert (response.AffectedSOPClassUID, response.AffectedSOPInstanceUID) == (sop_class, sop_instance)
    assert message.command_set.get("ErrorComment", "") == comment
    assert message.command_set.get("OffendingElement") == element
    group_length = message.command_set.CommandGroupLength
    assert 6 + 6 + 12 + group_length == pdu.pdu_length + 6
