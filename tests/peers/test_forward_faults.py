"""Whatever befalls PACS or network: everything arrives once by UID, byte for byte, when it is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.filereader import read_file_meta_info

from appliance.network.negotiation import PREFERRED_SYNTAXES
from tests.dicom_samples import CtSeries, write_series
from tests.support.pacs import Orthanc, StoreScp
from tests.support.processes import listens, wait_until
from tests.support.proxy import Proxy, Trouble
from tests.support.raw_objects import EXPLICIT, digests, raw_object
from tests.support.running import RunningAppliance
from tests.support.scanner import AnySyntaxPacs, data_set_sha256
from tests.support.settling import metric, waiting_deliveries
from tools.campaigns.raw_sender import Object, RawSender, read_object, send_raw

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "pipelines": [],
    # An hour of trouble at the defaults (5 s to 10 min, 120 s for an answer) is seconds here.
    "delivery": {"retry_minimum_s": 0.2, "retry_maximum_s": 1.0, "dimse_timeout_s": 1.0},
}
STORESCP_FAULTS = {
    "refuse": ("--refuse",),
    "reject": ("--reject",),
    "abort-after": ("--abort-after",),
    "abort-during": ("--abort-during",),
    "sleep-after": ("--sleep-after", "3"),
    "sleep-during": ("--sleep-during", "3"),
}
SMALL_BYTES, LARGE_BYTES = 20_000, 12_000_000
NETWORK_TROUBLES = {
    "cut": Trouble("cut", after_bytes=10 * SMALL_BYTES),
    "reset": Trouble("reset", after_bytes=10 * SMALL_BYTES),
    "stall": Trouble("stall", after_bytes=10 * SMALL_BYTES),
    "stall-within-a-large-object": Trouble("stall", after_bytes=LARGE_BYTES),
    "deaf": Trouble("deaf", after_bytes=10 * SMALL_BYTES),
    "slow": Trouble("slow", delay_s=0.005),
}
DOWN = "down"
ROUNDS = 2
"""How often each peer has to have met the trouble before it ends."""
HEALED_S = 90


@dataclass
class Route:
    """One destination: a storescp, reached through a network."""

    pacs: StoreScp
    proxy: Proxy | None = None

    @property
    def port(self) -> int:
        return self.proxy.port if self.proxy else self.pacs.port

    @property
    def troubled(self) -> int:
        """Associations that met with the trouble."""
        if self.proxy:
            return self.proxy.troubled
        return self.pacs.log.read_text(errors="replace").count("Association Received")

    def heal(self) -> None:
        if self.proxy:
            self.proxy.heal()
        else:
            self.pacs.stop()
            # A child that still sleeps has the socket, too.
            wait_until(lambda: not listens(self.pacs.port), 60, "the old storescp ends")
            self.pacs.faults = ()
            self.pacs.start()

    def stop(self) -> None:
        if self.proxy:
            self.proxy.stop()
        self.pacs.stop()

    def arrived(self) -> dict[str, Counter[str]]:
        """SHA-256 of each copy that arrived, by SOP Instance UID."""
        found: dict[str, Counter[str]] = {}
        for path in self.pacs.files:
            uid = str(read_file_meta_info(path).MediaStorageSOPInstanceUID)
            found.setdefault(uid, Counter())[data_set_sha256(path)] += 1
        return found


class Site:
    """One appliance with a destination for each trouble, all of them over once it is made."""

    def __init__(self, folder: Path) -> None:
        self.routes: dict[str, Route] = {}
        try:
            self._open(folder)
            destinations = {
                name: {"ae_title": "PACS", "host": "127.0.0.1", "port": route.port}
                for name, route in self.routes.items()
            }
            self.appliance = RunningAppliance(
                folder / "edge", pacs_port=0, settings={**SETTINGS, "destinations": destinations}
            )
            try:
                self.appliance.start()
                self._tell_story()
            finally:
                self.appliance.stop()
        finally:
            for route in self.routes.values():
                route.stop()

    def _open(self, folder: Path) -> None:
        for name, faults in STORESCP_FAULTS.items():
            self.routes[name] = Route(StoreScp(folder / name, every_copy=True, faults=faults).start())
        for name, trouble in NETWORK_TROUBLES.items():
            pacs = StoreScp(folder / name, every_copy=True).start()
            self.routes[name] = Route(pacs, Proxy(pacs.port, trouble))
        self.routes[DOWN] = Route(StoreScp(folder / DOWN, every_copy=True))

    def _tell_story(self) -> None:
        self.objects = known_to_dcmtk(self.routes["cut"].pacs.port)
        send_raw(self.appliance.port, self.objects)
        expected = len(self.objects) * len(self.routes)
        wait_until(lambda: _stored(self.appliance) + self.waiting >= expected, 30, "all is in the outbox")
        self.waiting_in_trouble = self.waiting
        meeting = [route for name, route in self.routes.items() if name != DOWN]
        wait_until(lambda: all(route.troubled >= ROUNDS for route in meeting), 60, "trouble is met")
        for route in self.routes.values():
            route.heal()
        wait_until(lambda: not self.waiting, HEALED_S, "everything is delivered")
        self.status = self.appliance.status()

    @property
    def waiting(self) -> int:
        return waiting_deliveries(self.appliance)


def _stored(appliance: RunningAppliance) -> int:
    return metric(appliance, "appliance_outbox_deliveries", 'state="stored"')


def known_to_dcmtk(port: int) -> list[Object]:
    """An object in each syntax that the storescp at `port` takes, and a large one."""
    ct = raw_object(EXPLICIT, "class").sop_class_uid
    with RawSender(port, [(ct, syntax) for syntax in PREFERRED_SYNTAXES], called="PACS") as sender:
        known = [syntax for syntax in PREFERRED_SYNTAXES if (ct, syntax) in sender.accepted]
    assert len(known) > 15
    objects = [raw_object(syntax, syntax, pixel_bytes=SMALL_BYTES) for syntax in known]
    return [*objects, raw_object(EXPLICIT, "large", pixel_bytes=LARGE_BYTES)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize("trouble", [*STORESCP_FAULTS, *NETWORK_TROUBLES, DOWN])
def test_everything_arrives_when_the_trouble_is_over(site: Site, trouble: str) -> None:
    arrived = site.routes[trouble].arrived()
    sent = {one.sop_instance_uid: set(digests([one])) for one in site.objects}
    assert {uid: set(copies) for uid, copies in arrived.items()} == sent
    outbox = {row["state"]: row["count"] for row in site.status["outbox"] if row["destination"] == trouble}
    assert {state for state, count in outbox.items() if count} == {"stored"}
    assert outbox["stored"] == len(sent)


def test_nothing_was_delivered_where_nothing_could_be(site: Site) -> None:
    assert site.waiting_in_trouble >= len(site.objects), "the destination that was down had none of it"


def test_every_syntax_crosses_a_network_that_drops(tmp_path: Path) -> None:
    pacs = AnySyntaxPacs()
    proxy = Proxy(pacs.port, Trouble("reset", after_bytes=300_000))
    objects = [raw_object(syntax, syntax, pixel_bytes=SMALL_BYTES) for syntax in PREFERRED_SYNTAXES]
    appliance = RunningAppliance(tmp_path, pacs_port=proxy.port, settings=SETTINGS)
    try:
        appliance.start()
        send_raw(appliance.port, objects)
        wait_until(lambda: proxy.troubled >= ROUNDS, 30, "connections are reset")
        proxy.heal()
        wait_until(lambda: _stored(appliance) == len(objects), HEALED_S, "everything is delivered")
    finally:
        appliance.stop()
        proxy.stop()
        pacs.stop()
    assert set(pacs.arrived) == set(digests(objects))


def test_orthanc_restarts_in_the_middle(orthanc: Orthanc, tmp_path: Path) -> None:
    # Orthanc encodes again what DCMTK would have encoded otherwise: only such objects can be compared.
    objects = [read_object(path) for path in write_series(tmp_path / "files", CtSeries(slices=150))]
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=orthanc.port, settings=SETTINGS)
    try:
        appliance.start()
        send_raw(appliance.port, objects[:100])
        wait_until(lambda: _stored(appliance) > 0, 30, "something has arrived")
        orthanc.stop()
        send_raw(appliance.port, objects[100:])
        wait_until(lambda: waiting_deliveries(appliance) >= 50, 30, "the rest waits")
        orthanc.start()
        wait_until(lambda: _stored(appliance) == len(objects), HEALED_S, "everything is delivered")
    finally:
        appliance.stop()
    assert Counter(map(data_set_sha256, orthanc.save_all(tmp_path / "saved"))) == digests(objects)


class Moods:
    """Answers of a PACS: what it says to some objects, each time or only the first times."""

    def __init__(self, always: Mapping[str, int], at_first: Mapping[str, int], times: int) -> None:
        self._always, self._at_first, self._times = always, at_first, times
        self.asked: Counter[str] = Counter()

    def __call__(self, uid: str) -> int:
        self.asked[uid] += 1
        if self.asked[uid] <= self._times:
            return self._at_first.get(uid, self._always.get(uid, 0x0000))
        return self._always.get(uid, 0x0000)


def test_each_status_does_what_it_means(tmp_path: Path) -> None:
    objects = [raw_object(EXPLICIT, str(number), pixel_bytes=SMALL_BYTES) for number in range(24)]
    uids = [one.sop_instance_uid for one in objects]
    permanent = {uids[2]: 0xA900, uids[5]: 0xC000, uids[7]: 0x0122, uids[8]: 0xA901}
    warnings = {uids[3]: 0xB000, uids[9]: 0xB006, uids[10]: 0xB007}
    for_now = {uids[0]: 0xA700, uids[6]: 0xA700}
    moods = Moods({**permanent, **warnings}, for_now, times=3)
    pacs = AnySyntaxPacs(moods)
    appliance = RunningAppliance(tmp_path, pacs_port=pacs.port, settings=SETTINGS)
    try:
        appliance.start()
        send_raw(appliance.port, objects)
        wait_until(lambda: _stored(appliance) == 20, HEALED_S, "all but the refused ones are delivered")
        status = appliance.status()
    finally:
        appliance.stop()
        pacs.stop()
    assert pacs.arrived == digests(one for one in objects if one.sop_instance_uid not in permanent)
    states = {row["state"]: row["count"] for row in status["outbox"] if row["count"]}
    assert states == {"stored": 20, "rejected": len(permanent)}, (
        "each refused object waits alone for a person"
    )
    assert {moods.asked[uid] for uid in permanent} == {1}
    assert {moods.asked[uid] for uid in warnings} == {1}, "a warning means that it is stored"
    assert {moods.asked[uid] for uid in for_now} == {4}
