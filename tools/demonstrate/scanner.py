"""A small scanner: sends each series over an association of its own, the bytes as they are in the file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association

from appliance.network.library import tune_socket
from tools.demonstrate.inputs import Series

# Files are sent as they lie: never decoded, never encoded again.
_config.STORE_SEND_CHUNKED_DATASET = True


class NotAccepted(Exception):
    """The appliance did not take what was sent; the message says what and why."""


def send(all_series: Iterable[Series], port: int, sent: Callable[[Series, float], None]) -> None:
    """Send every image; after each the appliance must have answered 0x0000.

    `sent` is told of each image and of the wall-clock time at which its sending began.

    Raises:
        NotAccepted: an association, a presentation context or an image was refused.
    """
    for series in all_series:
        entity = AE(ae_title="SCANNER")
        for pair in dict.fromkeys(
            (image.sop_class_uid, image.transfer_syntax_uid) for image in series.images
        ):
            entity.add_requested_context(*pair)
        association = entity.associate(
            "127.0.0.1",
            port,
            ae_title="EDGE",
            max_pdu=131072,
            evt_handlers=[(evt.EVT_CONN_OPEN, tune_socket)],
        )
        keep_responses(association)
        if not association.is_established:
            raise NotAccepted(f"no association for {series.name}")
        try:
            for image in series.images:
                begun = time.time()
                try:
                    status = association.send_c_store(image.path).get("Status", "no answer")
                except (ValueError, RuntimeError) as error:
                    raise NotAccepted(f"{series.name}: {error}") from error
                if status != 0x0000:
                    raise NotAccepted(f"{series.name}: C-STORE status {status}")
                sent(series, begun)
        finally:
            association.release()


def keep_responses(association: Association) -> None:
    """Leave the responses of the peer to whoever waits for them.

    The association's own thread looks for requests of the peer on the same queue. It is told to pause while
    a response is awaited, but may miss that under load, take the response and drop it: the sender then
    waits for its whole time-out. A storage SCP makes no requests, so that thread needs to find none.
    """
    take = association.dimse.get_msg
    association.dimse.get_msg = lambda block=False: take(block) if block else (None, None)  # type: ignore[method-assign]
