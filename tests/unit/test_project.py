"""Habits of the project that a machine can check."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from appliance.config.load import load
from tests.support.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FILE = 500
CODE = (".py", ".sql", ".service", ".target", ".yaml", ".toml", "")


def committed_files() -> list[Path]:
    """Files that git knows, and new ones that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def text_files() -> list[tuple[str, str]]:
    """Name and content of every committed text file but the licence."""
    found = []
    for path in committed_files():
        content = path.read_bytes()
        if b"\0" not in content and path.name != "LICENSE":
            found.append((str(path.relative_to(ROOT)), content.decode()))
    return found


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", ".ci/run"])
def test_it_exists(name: str) -> None:
    assert (ROOT / name).read_text().strip()


def test_no_file_of_code_is_too_long() -> None:
    lengths = {
        name: content.count("\n")
        for name, content in text_files()
        if Path(name).suffix in CODE and not name.startswith("locks/")
    }
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE}


def test_nothing_is_left_for_later() -> None:
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    assert not [name for name, content in text_files() if words.search(content)]


def test_no_file_names_a_machine() -> None:
    """Paths of one developer's machine and package indexes do not belong in the repository."""
    own_path = re.compile(r"(?<![\w.])/(?:root|home/\w+|work/(?:main|dev|shared))\b")
    index = re.compile(r"--(?:extra-)?index-url +\S|files\.pythonhosted|pypi\.org/simple")
    found = [
        name
        for name, content in text_files()
        if name != "tools/check-locks" and (own_path.search(content) or index.search(content))
    ]
    assert not found


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{name}: {target}"
        for name, content in text_files()
        if name.endswith(".md")
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", content)
        if not (ROOT / name).parent.joinpath(target).exists()
    ]
    assert not broken


def test_the_architecture_document_names_every_module() -> None:
    document = (ROOT / "docs" / "architecture.md").read_text()
    modules = sorted(
        path.relative_to(ROOT / "appliance")
        for path in (ROOT / "appliance").rglob("*.py")
        if path.name not in ("__init__.py",)
    )
    missing = [str(module) for module in modules if module.name not in document]
    assert not missing


def test_decisions_are_numbered() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert decisions
    for path in decisions:
        assert re.match(r"\d{4}-[a-z0-9-]+\.md$|README\.md$", path.name), path.name
        assert path.read_text().startswith("# "), path.name


def test_the_product_has_no_dependency_under_a_forbidden_licence() -> None:
    """The product, with the client of Triton servers, and all it pulls in: no GPL, nothing non-commercial."""
    reached: set[str] = set()
    waiting = [("edge-inference-appliance", frozenset({"triton"}))]
    asked = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        reached.add(name)
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                found = (requirement.name, frozenset(requirement.extras))
                if found not in asked:
                    asked.add(found)
                    waiting.append(found)
    assert {"pydicom", "grpcio"} <= reached
    forbidden = re.compile(r"\b(A?GPL|GNU (Affero )?General Public|Non-?Commercial)\b", re.IGNORECASE)
    for name in sorted(reached):
        metadata = distribution(name).metadata.json
        # Only the start: some packages put their whole licence, with those of their tools, into the field.
        licence = [str(metadata.get("license_expression", "")), str(metadata.get("license", ""))[:200]]
        licence += [entry for entry in metadata.get("classifier", []) if entry.startswith("License")]
        assert any(licence), f"{name} names no licence"
        assert not forbidden.search(" ".join(licence)), f"{name}: {licence}"
    assert "pylibjpeg-libjpeg" not in reached


def test_the_readme_shows_a_configuration_that_works(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert blocks
    content = yaml.safe_load(blocks[0])
    content["listener"]["port"] = free_port()
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump(content))
    assert load(file).station.ae_title == content["station"]["ae_title"]
