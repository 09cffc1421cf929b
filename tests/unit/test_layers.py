"""The layer rule of docs/architecture.md: imports point downwards only, siblings do not know each other."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LAYERS = (
    {"domain"},
    {"config", "journal", "spool", "observe"},
    {"dicom", "network", "runtime"},
    {"models", "results", "destinations"},
    {"services"},
    {"commands"},
    {"__main__"},
)
LAYER_OF = {package: number for number, layer in enumerate(LAYERS) for package in layer}

# In `services`: the processes, which do not know each other. `administration` may ask any of them.
PROCESSES = {"receiving", "planning", "inference", "forwarding", "monitoring"}

# Third-party packages that one package alone may know.
ONLY_IN = {
    "pynetdicom": "network",
    "onnxruntime": "runtime",
    "tensorrt": "runtime",
    "tensorrt_rtx": "runtime",
    "pycuda": "runtime",
    "tritonclient": "runtime",
    "grpc": "runtime",
}


@dataclass(frozen=True)
class Import:
    """One imported module and where the import stands."""

    importer: str
    imported: str
    place: str

    @property
    def package(self) -> str:
        """Package of the importer inside `appliance`: `domain`, `config`, ..., `__main__`."""
        return self.importer.split(".")[1]


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Every import in the file `path`, absolute, also those inside functions and conditions."""
    importer = ".".join(path.relative_to(root).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        place = f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(importer, name.name, place)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                # `from .x import y` in a.b.c (a file) or a.b.__init__ (the package a.b) starts at a.b.
                module = ".".join([*importer.split(".")[: -node.level], *filter(None, [module])])
            yield Import(importer, module, place)
            for name in node.names:
                # `from appliance import journal` names a package only here; `__version__` is none.
                if module == "appliance" and not name.name.startswith("__"):
                    yield Import(importer, f"{module}.{name.name}", place)


def problem(found: Import) -> str | None:
    """Which rule the import breaks, or None."""
    imported = found.imported.split(".")
    if imported[0] in ("tools", "tests"):
        return f"{found.place}: the product imports {found.imported}"
    if found.package in ("__init__",):
        return f"{found.place}: appliance/__init__.py imports {found.imported}"
    if imported[0] != "appliance":
        owner = ONLY_IN.get(imported[0])
        if owner and found.package != owner:
            return f"{found.place}: only appliance/{owner} may import {imported[0]}"
        if found.package == "domain" and imported[0] not in sys.stdlib_module_names:
            return f"{found.place}: appliance/domain imports {imported[0]}, not of the standard library"
        return None
    if imported[1:2] == ["services"] == [found.package]:
        return process_problem(found)
    if len(imported) == 1 or imported[1] == found.package:
        return None
    if imported[1] not in LAYER_OF:
        return f"{found.place}: {found.imported} is in no layer"
    if LAYER_OF[imported[1]] >= LAYER_OF[found.package]:
        return f"{found.place}: {found.package} imports {imported[1]}, which is not below it"
    return None


def process_problem(found: Import) -> str | None:
    """Which rule an import within `services` breaks, or None."""
    importer, imported = found.importer.split(".")[2:], found.imported.split(".")[2:]
    if not importer or not imported or imported[0] not in PROCESSES | {"administration"}:
        return None
    if importer[0] in ("administration", imported[0]):
        return None
    return f"{found.place}: {found.importer} imports {found.imported}, which belongs to another process"


FILES = sorted((ROOT / "appliance").rglob("*.py"))


def test_every_package_is_in_a_layer() -> None:
    names = {path.relative_to(ROOT / "appliance").parts[0].removesuffix(".py") for path in FILES}
    assert names - {"__init__"} <= set(LAYER_OF)


def test_imports_point_downwards() -> None:
    assert FILES, "no file found"
    problems = [problem(found) for path in FILES for found in imports_of(path, ROOT)]
    assert not [found for found in problems if found]


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("domain/a.py", "import numpy", "standard library"),
        ("services/planning/a.py", "from appliance.services.inference import b", "another process"),
        ("services/storage.py", "from appliance.services.planning.plan import b", "another process"),
        ("services/planning/a.py", "from appliance.services.administration.b import c", "another process"),
        ("services/administration/a.py", "from appliance.services.inference.b import c", None),
        ("services/planning/a.py", "from appliance.services.storage import Storage", None),
        ("domain/a.py", "import appliance.spool", "not below it"),
        ("journal/a.py", "from appliance.spool import store", "not below it"),
        ("journal/a.py", "from appliance import spool", "not below it"),
        ("journal/a.py", "from ..services import plan", "not below it"),
        ("journal/__init__.py", "from ..spool import store", "not below it"),
        ("services/a.py", "import pynetdicom", "only appliance/network"),
        ("models/a.py", "def f():\n    import onnxruntime.capi", "only appliance/runtime"),
        ("services/a.py", "from tools.simulate import head_series", "the product imports tools"),
        ("services/a.py", "import appliance.elsewhere", "in no layer"),
        ("journal/a.py", "import sqlite3\nfrom appliance.domain import states\nfrom .b import c", None),
        ("network/a.py", "import pynetdicom\nfrom appliance.config.schema import Config", None),
    ],
)
def test_the_rule_finds_what_it_forbids(tmp_path: Path, file: str, line: str, fault: str | None) -> None:
    path = tmp_path / "appliance" / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    problems = [found for found in map(problem, imports_of(path, tmp_path)) if found]
    if fault is None:
        assert not problems
    else:
        assert len(problems) == 1
        assert fault in problems[0]
