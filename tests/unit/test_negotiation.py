"""Which presentation contexts a scanner is offered, as pynetdicom then negotiates them."""

from __future__ import annotations

import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from appliance.network.negotiation import PREFERRED_SYNTAXES, is_storage, storage_contexts

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
RETIRED_ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6"
FUTURE_STORAGE = "1.2.840.10008.5.1.4.1.1.999.9"
PRIVATE_STORAGE = "1.3.12.2.1107.5.9.1"
GE_PRIVATE_SYNTAX = "1.2.840.113619.5.2"
EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
ACCEPTED, NO_ABSTRACT_SYNTAX, NO_TRANSFER_SYNTAX = 0, 3, 4

NOT_STORAGE = {
    "verification": "1.2.840.10008.1.1",
    "worklist": "1.2.840.10008.5.1.4.31",
    "query": "1.2.840.10008.5.1.4.1.2.2.1",
    "palette query": "1.2.840.10008.5.1.4.39.2",
    "commitment": "1.2.840.10008.1.20.1",
    "unknown service": "1.2.840.10008.9.9.9",
}


def propose(*contexts: tuple[str, list[str]]) -> list[PresentationContext]:
    proposed = [build_context(abstract, syntaxes) for abstract, syntaxes in contexts]
    for number, context in enumerate(proposed):
        context.context_id = 2 * number + 1
    return proposed


def negotiated(*contexts: tuple[str, list[str]]) -> list[tuple[int | None, str]]:
    """Result and accepted transfer syntax of each proposed context."""
    proposed = propose(*contexts)
    answers, _roles = negotiate_as_acceptor(proposed, storage_contexts(proposed))
    answers.sort(key=lambda context: context.context_id or 0)
    return [(context.result, str(context.transfer_syntax[0])) for context in answers]


@pytest.mark.parametrize("abstract", [CT, RETIRED_ULTRASOUND, FUTURE_STORAGE, PRIVATE_STORAGE])
def test_every_storage_class_is_accepted(abstract: str) -> None:
    assert negotiated((abstract, [IMPLICIT])) == [(ACCEPTED, IMPLICIT)]
    assert uid_to_service_class(UID(abstract)) is StorageServiceClass


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([IMPLICIT, EXPLICIT], EXPLICIT),
        ([JPEG_2000, BIG_ENDIAN, IMPLICIT], IMPLICIT),
        ([GE_PRIVATE_SYNTAX, IMPLICIT], IMPLICIT),
        (["1.2.840.10008.1.2.4.50", JPEG_2000], JPEG_2000),
        (["1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.50"], "1.2.840.10008.1.2.4.50"),
        (["1.2.840.10008.1.2.4.94", JPEG_2000], JPEG_2000),
    ],
)
def test_our_order_of_syntaxes_counts_and_not_the_peers(offered: list[str], chosen: str) -> None:
    assert negotiated((CT, offered)) == [(ACCEPTED, chosen)]


@pytest.mark.parametrize("syntax", PREFERRED_SYNTAXES)
def test_each_usable_syntax_is_accepted_when_it_is_the_only_one(syntax: str) -> None:
    assert negotiated((CT, [syntax])) == [(ACCEPTED, syntax)]


def test_several_contexts_for_one_class_are_each_answered() -> None:
    answers = negotiated(
        (CT, [JPEG_2000]), (CT, [EXPLICIT, IMPLICIT]), (CT, [GE_PRIVATE_SYNTAX]), (MR, [IMPLICIT])
    )
    assert answers[:2] == [(ACCEPTED, JPEG_2000), (ACCEPTED, EXPLICIT)]
    assert answers[2][0] == NO_TRANSFER_SYNTAX
    assert answers[3] == (ACCEPTED, IMPLICIT)


def test_without_a_usable_syntax_the_class_is_not_blamed() -> None:
    ((result, _),) = negotiated((CT, [GE_PRIVATE_SYNTAX]))
    assert result == NO_TRANSFER_SYNTAX


@pytest.mark.parametrize("abstract", NOT_STORAGE.values(), ids=list(NOT_STORAGE))
def test_other_services_are_left_out(abstract: str) -> None:
    assert not is_storage(UID(abstract))
    answers = negotiated((abstract, [IMPLICIT]), (CT, [IMPLICIT]))
    assert answers[0][0] == NO_ABSTRACT_SYNTAX
    assert answers[1] == (ACCEPTED, IMPLICIT)


def test_128_contexts_are_all_answered() -> None:
    classes = [f"{PRIVATE_STORAGE}.{number}" for number in range(128)]
    answers = negotiated(*((abstract, [EXPLICIT]) for abstract in classes))
    assert answers == [(ACCEPTED, EXPLICIT)] * 128


def test_every_standard_syntax_of_a_stored_object_is_usable() -> None:
    """All but those that refer to data elsewhere, belong to streams, or never were for DICOM objects."""
    elsewhere = {"1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95"}
    elsewhere |= {"1.2.840.10008.1.2.4.204", "1.2.840.10008.1.2.4.205"}
    streams = {"1.2.840.10008.1.2.7.1", "1.2.840.10008.1.2.7.2", "1.2.840.10008.1.2.7.3"}
    others = {"1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2", "1.2.840.10008.1.20"}
    standard = {uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"}
    assert set(PREFERRED_SYNTAXES) >= standard - elsewhere - streams - others
    assert not set(PREFERRED_SYNTAXES) & (elsewhere | streams | others)
    assert len(set(PREFERRED_SYNTAXES)) == len(PREFERRED_SYNTAXES)
