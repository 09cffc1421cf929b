"""Pictures for people who look whether results can be read: `python -m tools.demonstrate.cards --out DIR`.

Every card, and every report as DCMTK shows it, on a dark and on a light page, 512 and 1024 pixels wide; with
`--page` also the report of the demonstration, as wide as a small laptop and as a phone.
"""

from __future__ import annotations

import io
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from pydicom import dcmread

from appliance.results.card import WIDTH
from appliance.results.card_design import DESIGNS
from tools.demonstrate.browser import NotInstalled, photograph, program
from tools.demonstrate.card_samples import Sample, samples

WIDTHS = (512, WIDTH)
PAGE_WIDTHS = (390, 1280)
STYLE = Path(__file__).with_name("report.css")


def draw(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the pictures go.")],
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A report of tools/demo, to be drawn as well.")
    ] = None,
) -> None:
    """Draw all results as people see them."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        for design in DESIGNS:
            with tempfile.TemporaryDirectory() as folder:
                for sample in samples(Path(folder), design):
                    if sample.kind == "sc":
                        _draw_card(sample, out, design)
                    else:
                        _draw_report(sample, out, Path(folder), design)
            if page is not None:
                for width in PAGE_WIDTHS:
                    photograph(page, out / f"page-{design}-{width}.png", width=width, dark=design == "dark")
    except NotInstalled as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _draw_card(sample: Sample, out: Path, design: str) -> None:
    card = Image.fromarray(dcmread(io.BytesIO(sample.content)).pixel_array)
    for width in WIDTHS:
        size = (width, round(card.height * width / card.width))
        shown = card.resize(size, Image.Resampling.LANCZOS)
        shown.save(out / f"card-{sample.name}-{design}-{width}.png", optimize=True)


def _draw_report(sample: Sample, out: Path, folder: Path, design: str) -> None:
    """A report as HTML by DCMTK, with a style that knows both."""
    report, page = folder / "report.dcm", folder / "report.html"
    report.write_bytes(sample.content)
    command = [
        program("dsr2html"),
        "--quiet",
        "--convert-to-utf8",
        "--always-expand-inline",
        "--css-file",
        str(STYLE),
    ]
    subprocess.run([*command, str(report), str(page)], check=True, capture_output=True)
    for width in WIDTHS:
        picture = out / f"report-{sample.name}-{design}-{width}.png"
        photograph(page, picture, width=width, dark=design == "dark")


if __name__ == "__main__":
    typer.run(draw)
