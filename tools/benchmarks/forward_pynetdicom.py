"""A sender of pynetdicom as its documentation shows it.

`python -m tools.benchmarks.forward_pynetdicom PORT FILE...`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from tools.benchmarks.stock_pynetdicom import PDU_BYTES, answer_at_once


def send(port: int, files: Sequence[Path]) -> int:
    """Send every file over one association; how many were stored."""
    entity = AE(ae_title="STOCK")
    entity.maximum_pdu_size = PDU_BYTES
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, evt_handlers=[(evt.EVT_CONN_OPEN, answer_at_once)])
    if not association.is_established:
        return 0
    stored = sum(1 for file in files if association.send_c_store(file).get("Status") == 0x0000)
    association.release()
    return stored


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    sys.exit(0 if send(arguments.port, arguments.files) == len(arguments.files) else 1)
