"""Unified Procedure Steps as SCU of UPS Push (PS3.4 CC.2.5): creating a workitem."""

from __future__ import annotations

import logging
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import UnifiedProcedureStepPush  # type: ignore[attr-defined]

from appliance.network.requestor import Peer, RequestedAssociation, open_association
from appliance.network.sending import OutcomeUnknown

_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]

_log = logging.getLogger(__name__)


def create_workitem(peer: Peer, file: Path) -> int:
    """Create the workitem in a Part-10 file (N-CREATE), under the UID in its meta information; the status.

    Raises:
        TryAgain: the peer cannot be reached, or accepts no workitems.
        OutcomeUnknown: it does not answer.
        OSError: the file cannot be read.
    """
    workitem = dcmread(file)
    uid = workitem.file_meta.MediaStorageSOPInstanceUID
    association = _open(peer)
    try:
        response, _ = association.send_n_create(workitem, UnifiedProcedureStepPush, uid)
    except (OSError, RuntimeError, ValueError) as error:
        _log.warning("n_create_failed", extra={"error": type(error).__name__})
        association.abort()
        raise OutcomeUnknown("the association ended before the response", gone=True) from error
    status: int | None = response.get("Status")
    if status is None:
        association.abort()
        raise OutcomeUnknown(f"no response within {peer.response_timeout_s:g} s", gone=False)
    association.release()
    return status


def ask_for_workitems(peer: Peer) -> None:
    """Ask whether the peer takes workitems.

    Raises:
        TryAgain: it cannot be reached, or accepts none.
    """
    _open(peer).release()


def _open(peer: Peer) -> RequestedAssociation:
    return open_association(peer, [(UnifiedProcedureStepPush, _SYNTAXES)])
