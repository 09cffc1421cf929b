"""`tools/campaign KIND`: run one campaign, print its table, say whether anything was found."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from tools.campaigns import forward_crash, forward_report, fuzz, receive_crash, receive_report
from tools.campaigns.crash import Crash, bench, crash, draw_points, last_look
from tools.campaigns.pacs import STORESCP
from tools.campaigns.report import DOCUMENT, Campaign, into_document, markdown

_Point = TypeVar("_Point")
_Result = TypeVar("_Result")


def main() -> int:
    """Run one campaign; returns 0 if nothing was found, 1 if something was, 2 if it could not run."""
    arguments = _arguments()
    # So that an end by SIGTERM takes the appliance and the PACS along, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    campaign: Campaign | receive_crash.ReceiveCampaign | forward_crash.ForwardCampaign | fuzz.Fuzz
    if arguments.kind == "fuzz":
        campaign = fuzz.run(arguments.inputs, arguments.seed, lambda done: _say(f"{done} inputs"))
        text, found = fuzz.markdown(campaign), campaign.faults
    else:
        if not os.access(STORESCP, os.X_OK):
            return _say(f"{STORESCP} is missing: install the Debian package dcmtk", 2)
        try:
            if arguments.kind == "receive":
                campaign = _receive(
                    arguments.points, arguments.seed, senders=arguments.senders, receivers=arguments.receivers
                )
                text = receive_report.markdown(campaign)
            elif arguments.kind == "forward":
                campaign = _forward(arguments.points, arguments.seed, arguments.senders)
                text = forward_report.markdown(campaign)
            else:
                campaign = _crash(arguments.points, arguments.seed, arguments.receivers)
                text = markdown(campaign)
        except RuntimeError as error:
            return _say(str(error), 2)
        found = campaign.problems
    _say(text)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(asdict(campaign), indent=2) + "\n")
    if arguments.document:
        DOCUMENT.write_text(into_document(DOCUMENT.read_text(), text, arguments.kind))
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/campaign", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    crashes = kinds.add_parser("crash", help="kill random processes at random moments and look for losses")
    crashes.add_argument("--points", type=int, default=30, help="how many crashes (about 6 s each)")
    crashes.add_argument("--seed", type=int, default=1, help="decides stages, victims and series")
    crashes.add_argument("--receivers", type=int, default=1, help="how many processes receive")
    receives = kinds.add_parser("receive", help="kill processes while several scanners send, without models")
    receives.add_argument("--points", type=int, default=200, help="how many kills (about 4 s each)")
    receives.add_argument("--seed", type=int, default=1, help="decides victims and moments")
    receives.add_argument("--senders", type=int, default=4, help="how many scanners send at the same time")
    receives.add_argument("--receivers", type=int, default=2, help="how many processes receive")
    forwards = kinds.add_parser("forward", help="kill the forwarder or the PACS while images leave")
    forwards.add_argument("--points", type=int, default=150, help="how many kills (about 5 s each)")
    forwards.add_argument("--seed", type=int, default=1, help="decides victims and moments")
    forwards.add_argument("--senders", type=int, default=4, help="how many scanners send at the same time")
    inputs = kinds.add_parser("fuzz", help="feed broken PDUs and command sets to the receiver's parser")
    inputs.add_argument("--inputs", type=int, default=1_000_000, help="how many (thousands a second)")
    inputs.add_argument("--seed", type=int, default=1, help="decides every input")
    for kind in (crashes, receives, forwards, inputs):
        kind.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
        kind.add_argument("--document", action="store_true", help=f"put the table into {DOCUMENT.name}")
    return parser.parse_args()


def _crash(points: int, seed: int, receivers: int) -> Campaign:
    """Run the points in a folder that stays if anything was found, so that logs and journal can be read."""
    begin = time.monotonic()
    folder = _folder("crash")
    with bench(folder, receivers=receivers) as made:
        crashes = _each(
            draw_points(made, points, random.Random(seed)), lambda point: crash(made, point), _line
        )
        late = last_look(made)
    campaign = Campaign(seed, receivers, tuple(crashes), tuple(late), time.monotonic() - begin)
    if not campaign.problems:
        shutil.rmtree(folder)
    return campaign


def _receive(points: int, seed: int, *, senders: int, receivers: int) -> receive_crash.ReceiveCampaign:
    """As `_crash`, but with several scanners and no model."""
    begin = time.monotonic()
    folder = _folder("receive")
    with receive_crash.bench(folder, senders=senders, receivers=receivers) as made:
        crashes = _each(
            receive_crash.draw_kills(made, points, random.Random(seed)),
            lambda kill: receive_crash.receive_crash(made, kill),
            _receive_line,
        )
        late = receive_crash.last_look(made)
        undisturbed_s = made.undisturbed_s
    campaign = receive_crash.ReceiveCampaign(
        seed, senders, receivers, undisturbed_s, tuple(crashes), tuple(late), time.monotonic() - begin
    )
    if not campaign.problems:
        shutil.rmtree(folder)
    return campaign


def _forward(points: int, seed: int, senders: int) -> forward_crash.ForwardCampaign:
    """As `_receive`, with the forwarder and the PACS as victims."""
    begin = time.monotonic()
    folder = _folder("forward")
    with forward_crash.bench(folder, senders=senders) as made:
        crashes = _each(
            forward_crash.draw_kills(points, random.Random(seed)),
            lambda kill: forward_crash.forward_crash(made, kill),
            _forward_line,
        )
        late = forward_crash.last_look(made)
        lasting_s = made.lasting_s
    campaign = forward_crash.ForwardCampaign(
        seed, senders, lasting_s, tuple(crashes), tuple(late), time.monotonic() - begin
    )
    if not campaign.problems:
        shutil.rmtree(folder)
    return campaign


def _folder(kind: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-campaign-"))
    _say(f"works in {folder}")
    return folder


def _each(
    points: Iterable[_Point], run: Callable[[_Point], _Result], line: Callable[[_Result], str]
) -> list[_Result]:
    """Run the points and say what each led to. A first Ctrl-C ends that after the present point."""
    enough = threading.Event()
    _on_interrupt(enough)
    results: list[_Result] = []
    for point in points:
        results.append(run(point))
        _say(line(results[-1]))
        if enough.is_set():
            break
    return results


def _on_interrupt(enough: threading.Event) -> None:
    def on_interrupt(_number: int, _frame: object) -> None:
        enough.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, on_interrupt)


def _line(one: Crash) -> str:
    result = "; ".join(one.problems) or "nothing lost, nothing twice"
    return f"{one.point.number + 1:4d}  {one.point.victim:<8} {one.stage:<20} {one.seconds:5.1f} s  {result}"


def _receive_line(one: receive_crash.ReceiveCrash) -> str:
    result = "; ".join(one.problems) or "nothing lost, nothing twice"
    at = f"{one.acknowledged} of {one.images} images"
    return f"{one.kill.number + 1:4d}  {one.kill.victim:<10} {at:<20} {one.seconds:5.1f} s  {result}"


def _forward_line(one: forward_crash.ForwardCrash) -> str:
    result = "; ".join(one.problems) or "nothing lost, nothing twice"
    at = f"{one.arrived} of {one.images} images, {one.sending} claimed"
    kill = one.kill
    return (
        f"{kill.number + 1:4d}  {kill.victim:<8} {kill.situation:<22} {at:<32} {one.seconds:5.1f} s  {result}"
    )


def _say(text: str, status: int = 0) -> int:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
