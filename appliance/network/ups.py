"""Unified Procedure Steps as SCU of UPS Push (PS3.4 CC.2): creating a workitem, and asking to cancel it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from pydicom import Dataset, FileDataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import UnifiedProcedureStepPush  # type: ignore[attr-defined]

from appliance.network.requestor import Peer, RequestedAssociation, open_association
from appliance.network.sending import OutcomeUnknown

REQUEST_CANCEL = 2
"""Action Type ID of "Request UPS Cancel" (PS3.4 CC.2.2)."""

_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]

_log = logging.getLogger(__name__)


def read_message(file: Path) -> FileDataset:
    """What a Part-10 file says of the workitem whose UID its meta information has.

    Raises:
        OSError: it cannot be read.
        InvalidDicomError: it is no Part-10 file.
    """
    return dcmread(file)


def is_new_workitem(message: FileDataset) -> bool:
    """Whether a message is a workitem to be created; else it asks to cancel one.

    Only the first has Procedure Step State (0074,1000): Type 1 in N-CREATE, none of Action Information.
    """
    return "ProcedureStepState" in message


def create_workitem(peer: Peer, message: FileDataset) -> int:
    """Create a workitem (N-CREATE, PS3.4 CC.2.5); the status of the answer.

    Raises:
        TryAgain: the peer cannot be reached, or accepts no workitems.
        OutcomeUnknown: it does not answer.
    """

    def create(association: RequestedAssociation) -> Dataset:
        response, _ = association.send_n_create(message, UnifiedProcedureStepPush, _workitem(message))
        return response

    return _ask(peer, create)


def request_cancel(peer: Peer, message: FileDataset) -> int:
    """Ask that a workitem be cancelled (N-ACTION, PS3.4 CC.2.2); the status of the answer.

    Raises:
        TryAgain: the peer cannot be reached, or accepts no workitems.
        OutcomeUnknown: it does not answer.
    """

    def act(association: RequestedAssociation) -> Dataset:
        response, _ = association.send_n_action(
            message, REQUEST_CANCEL, UnifiedProcedureStepPush, _workitem(message)
        )
        return response

    return _ask(peer, act)


def ask_for_workitems(peer: Peer) -> None:
    """Ask whether the peer takes workitems.

    Raises:
        TryAgain: it cannot be reached, or accepts none.
    """
    _open(peer).release()


def _workitem(message: FileDataset) -> UID:
    uid: UID = message.file_meta.MediaStorageSOPInstanceUID
    return uid


def _ask(peer: Peer, request: Callable[[RequestedAssociation], Dataset]) -> int:
    association = _open(peer)
    try:
        response = request(association)
    except (OSError, RuntimeError, ValueError) as error:
        _log.warning("workitem_request_failed", extra={"error": type(error).__name__})
        association.abort()
        raise OutcomeUnknown("the association ended before the response", gone=True) from error
    status: int | None = response.get("Status")
    if status is None:
        association.abort()
        raise OutcomeUnknown(f"no response within {peer.response_timeout_s:g} s", gone=False)
    association.release()
    return status


def _open(peer: Peer) -> RequestedAssociation:
    return open_association(peer, [(UnifiedProcedureStepPush, _SYNTAXES)])
