"""The parser's experiment: valid C-STORE traffic, broken in every way, must be taken or refused in words."""

from __future__ import annotations

import random
import resource
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pynetdicom import build_context
from pynetdicom.sop_class import CTImageStorage, Verification  # type: ignore[attr-defined]

from appliance.network.limits import Limits
from appliance.network.messages import ProtocolError, read_command
from appliance.network.reception import Reception, Reply, StoreRequest
from tools.campaigns import wire

STORE, ECHO = 1, 3
TAKEN = "taken"
_LIMITS = Limits(pdu_bytes=131072, idle_s=600.0)
_CONTEXTS = {
    STORE: build_context(CTImageStorage, "1.2.840.10008.1.2.1"),
    ECHO: build_context(Verification, "1.2.840.10008.1.2"),
}
_LIES = (0, 1, 2, 3, 5, 7, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_SLOWEST_S = 1.0
_SETTLED = 20_000
"""Inputs after which the process has its size: what it grows from there is a leak."""


@dataclass(frozen=True)
class Fuzz:
    """What came of one run. `faults` is empty if every input was taken or refused with `ProtocolError`.

    `words`: inputs by the word of their refusal; `growth_bytes`: by how much the peak of resident memory
    rose after the first inputs; `slowest_s`: the most processor time that one input took.
    """

    seed: int
    inputs: int
    seconds: float
    words: dict[str, int]
    growth_bytes: int
    slowest_s: float
    faults: tuple[str, ...]

    @property
    def inputs_per_s(self) -> float:
        """How fast it went."""
        return self.inputs / self.seconds


class _Sink:
    """Counts; every sink that was begun must come to one end."""

    def __init__(self) -> None:
        self.received = 0
        self.is_open = True

    def write(self, data: memoryview) -> None:
        self.received += len(data)

    def finish(self) -> Reply:
        self.is_open = False
        return Reply(0x0000)

    def abandon(self) -> None:
        self.is_open = False


def run(inputs: int, seed: int, progress: Callable[[int], object]) -> Fuzz:
    """Feed `inputs` broken messages to `Reception.take` and `read_command`; `progress` is told how many."""
    chance = random.Random(seed)
    words: Counter[str] = Counter()
    faults: list[str] = []
    slowest_s, settled_bytes = 0.0, 0
    begin = time.monotonic()
    for number in range(inputs):
        if number == min(_SETTLED, inputs // 2):
            settled_bytes = _peak_bytes()
        if number % 100_000 == 0:
            progress(number)
        started = time.thread_time()
        try:
            words[_one(chance)] += 1
        except Exception as error:  # noqa: BLE001 - what a fuzzer is for
            faults.append(f"input {number} of seed {seed}: {type(error).__name__}: {error}")
        took_s = time.thread_time() - started
        slowest_s = max(slowest_s, took_s)
        if took_s > _SLOWEST_S:
            faults.append(f"input {number} of seed {seed} took {took_s:.1f} s")
    seconds = time.monotonic() - begin
    return Fuzz(seed, inputs, seconds, dict(words), _peak_bytes() - settled_bytes, slowest_s, tuple(faults))


def markdown(fuzz: Fuzz) -> str:
    """Command, speed, and inputs by what became of them."""
    rows = sorted(fuzz.words.items(), key=lambda row: -row[1])
    lines = [
        f"`tools/campaign fuzz --inputs {fuzz.inputs} --seed {fuzz.seed}` took {fuzz.seconds:.0f} s"
        f" ({fuzz.inputs_per_s:.0f} inputs/s on one core).",
        "",
        "| what became of the input | inputs |",
        "| --- | --: |",
        *(f"| {word if word == TAKEN else f'refused: `{word}`'} | {count} |" for word, count in rows),
        "",
        f"- Exceptions other than a refusal, sinks left open, inputs of more than {_SLOWEST_S:g} s:"
        f" **{len(fuzz.faults)}**.",
        f"- Growth of the peak of resident memory after the first {min(_SETTLED, fuzz.inputs // 2)} inputs:"
        f" {fuzz.growth_bytes / 2**20:.1f} MiB; the slowest input took {fuzz.slowest_s * 1000:.0f} ms.",
    ]
    return "\n".join([*lines, *(f"- {fault}" for fault in fuzz.faults[:20])])


def _one(chance: random.Random) -> str:
    """Make one input and feed it; the word of its refusal, or `TAKEN`.

    Raises:
        RuntimeError: a sink was left open.
    """
    if chance.random() < 0.25:
        return _feed(lambda: read_command(_broken(chance, _command(chance))))
    sinks: list[_Sink] = []

    def begin(_request: StoreRequest) -> _Sink:
        sinks.append(_Sink())
        return sinks[-1]

    reception = Reception(lambda: _CONTEXTS, begin, lambda *_: None, lambda _: None, _LIMITS)

    def take() -> None:
        for body in _bodies(chance):
            reception.take(memoryview(body))

    word = _feed(take)
    reception.abandon()
    if any(sink.is_open for sink in sinks):
        raise RuntimeError("a sink was left open")
    return word


def _feed(take: Callable[[], object]) -> str:
    try:
        take()
    except ProtocolError as error:
        return error.word
    return TAKEN


def _bodies(chance: random.Random) -> list[bytes]:
    """The bodies of the P-DATA-TF of a few messages, of which something is wrong."""
    items: list[bytes] = []
    for _ in range(chance.randint(1, 3)):
        command = _command(chance)
        if chance.random() < 0.3:
            command = _broken(chance, command)
        data_set = chance.randbytes(chance.randint(0, 400))
        items += wire.message(chance.choice((STORE, STORE, ECHO)), command, data_set, chance.randint(20, 300))
    _shuffle(chance, items)
    bodies = []
    while items:
        count = chance.randint(1, len(items))
        body = b"".join(items[:count])
        bodies.append(_broken(chance, body) if chance.random() < 0.5 else body)
        items = items[count:]
    return bodies


def _shuffle(chance: random.Random, items: list[bytes]) -> None:
    """Drop, double, swap or falsify whole items: order, context and control header."""
    for _ in range(chance.randint(0, 2) if items else 0):
        at, other = chance.randrange(len(items)), chance.randrange(len(items))
        kind = chance.randrange(5)
        if kind == 0 and len(items) > 1:
            del items[at]
        elif kind == 1:
            items.insert(other, items[at])
        elif kind == 2:
            items[at], items[other] = items[other], items[at]
        elif kind == 3:
            items[at] = items[at][:4] + bytes([chance.randrange(256)]) + items[at][5:]
        else:
            items[at] = items[at][:5] + bytes([chance.randrange(256)]) + items[at][6:]


def _command(chance: random.Random) -> bytes:
    """The command set of a C-STORE request, often with elements missing, doubled or of another length."""
    elements = wire.store_elements(CTImageStorage, f"2.25.{chance.getrandbits(chance.choice((8, 120)))}")
    if chance.random() < 0.3:
        at = chance.randrange(len(elements))
        number, value = elements[at]
        change: list[list[tuple[int, bytes]]] = [
            [],
            [(number, value), (number, value)],
            [(number, value[: chance.randint(0, len(value))])],
            [(number, chance.randbytes(chance.randint(0, 40)))],
            [(chance.randrange(0x10000), value)],
        ]
        elements[at : at + 1] = chance.choice(change)
    return wire.command_set(elements)


def _broken(chance: random.Random, data: bytes) -> bytes:
    """Flip, truncate, splice, repeat, or make a length lie."""
    broken = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        if len(broken) < 4:
            break
        at = chance.randrange(len(broken))
        kind = chance.randrange(6)
        if kind == 0:
            broken[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del broken[at:]
        elif kind == 2:
            start = chance.randrange(len(broken))
            broken[at:at] = broken[start : start + chance.randint(1, 60)]
        elif kind == 3:
            broken[at:at] = chance.randbytes(chance.randint(1, 20))
        elif kind == 4:
            del broken[at : at + chance.randint(1, 12)]
        else:
            lie = struct.pack(chance.choice("<>") + "I", chance.choice(_LIES))
            at = min(at, len(broken) - 4)
            broken[at : at + 4] = lie
    return bytes(broken)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
