"""`tools/bench KIND`: measure, print the tables, write JSON and docs/benchmarks.md if asked to."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tools.benchmarks import forward, infer, outbox, receive, spool
from tools.benchmarks.receivers import STORESCP, NotStarted
from tools.benchmarks.report import DOCUMENT, Report, show, write_document
from tools.benchmarks.sender import DCMSEND, NotSent
from tools.campaigns.raw_sender import Refused


def main() -> int:
    """Run one benchmark; returns 0, or 2 if it could not be run."""
    arguments = _arguments()
    needed = {"receive": [DCMSEND], "forward": [DCMSEND, STORESCP]}.get(arguments.kind, [])
    for program in needed:
        if not os.access(program, os.X_OK):
            _say(f"{program} is missing: install the Debian package dcmtk")
            return 2
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.folder) as folder:
            report = _measure(arguments, Path(folder))
    except (NotStarted, NotSent, Refused, RuntimeError) as error:
        _say(str(error))
        return 2
    show(report)
    if arguments.json is not None:
        arguments.json.write_text(report.to_json(), encoding="utf-8")
    if arguments.document:
        write_document(arguments.kind, report)
    return 0


def _measure(arguments: argparse.Namespace, folder: Path) -> Report:
    command = " ".join(["tools/bench", arguments.kind])
    if arguments.kind == "spool":
        command += f" --objects {arguments.objects}"
        return spool.benchmark(folder, objects=arguments.objects, command=command)
    if arguments.kind == "outbox":
        command += f" --pending {arguments.pending}"
        return outbox.benchmark(folder, pending=arguments.pending, command=command)
    if arguments.kind == "infer":
        command += f" --seconds {arguments.seconds:g}"
        return infer.benchmark(seconds=arguments.seconds, command=command, say=_say)
    command += f" --runs {arguments.runs} --images {arguments.images}"
    if arguments.kind == "forward":
        return forward.benchmark(
            folder, runs=arguments.runs, images=arguments.images, command=command, say=_say
        )
    return receive.benchmark(
        folder,
        runs=arguments.runs,
        images=arguments.images,
        past=arguments.past,
        command=command,
        say=_say,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    receiving = kinds.add_parser("receive", help="receiving beside DCMTK, pynetdicom and Orthanc")
    forwarding = kinds.add_parser("forward", help="sending beside DCMTK, pynetdicom and Orthanc, and the lag")
    for kind, images in ((receiving, 400), (forwarding, 300)):
        kind.add_argument("--runs", type=int, default=5, help="alternated runs of each case")
        kind.add_argument("--images", type=int, default=images, help="CT slices of 512 KiB in each run")
    receiving.add_argument(
        "--past", type=int, default=1_000_000, help="instances in the journal that is not empty; 0: no such"
    )
    spooling = kinds.add_parser("spool", help="ways to make a file durable")
    spooling.add_argument("--objects", type=int, default=200, help="files of 525 kB for each way")
    waiting = kinds.add_parser("outbox", help="what the journal allows the forwarder")
    waiting.add_argument("--pending", type=int, default=1_000_000, help="originals that wait")
    inferring = kinds.add_parser("infer", help="our runtime class beside the bare library")
    inferring.add_argument("--seconds", type=float, default=20.0, help="for each case")
    for one in (receiving, forwarding, spooling, waiting, inferring):
        one.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
        one.add_argument("--document", action="store_true", help=f"put the tables into {DOCUMENT.name}")
        one.add_argument(
            "--folder", type=Path, metavar="DIR", help="use a new folder in DIR: it decides on the disk"
        )
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
