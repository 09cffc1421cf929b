"""Writes `docs/configuration.md` and `config/schema.json` from the schema.

Run `python -m appliance.config.reference` in the repository after a change of the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.config.schema import Config

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "config" / "schema.json"

_HEAD = """\
# Configuration

Written by `python -m appliance.config.reference` from `appliance/config/schema.py`; do not edit.

The appliance reads one YAML file: `appliance run --config site.yaml`. `appliance check --config
site.yaml` names every mistake in it without starting anything. A setting that is not listed here is a
mistake. Paths are relative to the folder of the file. `config/schema.json` is the same as a JSON
Schema, for editors that complete and check YAML.

`*` stands for a name that you choose, `[]` for each item of a list; the settings behind `*:hl7` are those of
a destination of this kind.

The smallest useful file:

```yaml
{example}```

| setting | type and limits | default | meaning |
|---|---|---|---|
"""


@dataclass(frozen=True)
class _Setting:
    path: str
    kind: str
    default: str
    meaning: str


def configuration_md() -> str:
    """The text of `docs/configuration.md`."""
    example = "\n".join(
        line
        for line in (ROOT / "config" / "site.yaml").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    rows = [
        f"| `{setting.path}` | {setting.kind} | {setting.default} | {setting.meaning} |"
        for setting in _settings(_schema())
    ]
    return _HEAD.format(example=example + "\n") + "\n".join(rows) + "\n"


def schema_json() -> str:
    """The text of `config/schema.json`."""
    return json.dumps(_schema(), indent=2) + "\n"


def _schema() -> dict[str, Any]:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


def _settings(schema: dict[str, Any]) -> Iterator[_Setting]:
    definitions: dict[str, dict[str, Any]] = schema["$defs"]

    def walk(node: dict[str, Any], path: str) -> Iterator[_Setting]:
        for name, child in node["properties"].items():
            place = f"{path}{name}"
            optional = _alternative(child)
            target = _resolve(optional, definitions)
            yield _Setting(
                place,
                _kind(optional, target, definitions),
                _default(child, target, name in node.get("required", [])),
                child.get("description", target.get("description", "")),
            )
            items = _resolve(target.get("items", {}), definitions)
            insides = [(target, "."), (items, "[].")]
            insides += [(inner, f"{suffix}.") for inner, suffix in _by_name(target, definitions)]
            for inner, suffix in insides:
                if "properties" in inner:
                    yield from walk(inner, place + suffix)

    yield from walk(schema, "")


def _by_name(
    node: dict[str, Any], definitions: dict[str, dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], str]]:
    """What may stand under a free name, and how its place is written: one entry for each kind of it."""
    values = _resolve(_values(node), definitions)
    if "oneOf" not in values:
        yield values, ".*"
    for choice in values.get("oneOf", []):
        kind = _resolve(choice, definitions)
        yield kind, f".*:{kind['properties']['kind']['const']}"


def _values(node: dict[str, Any]) -> Any:
    """The schema of the values of a group whose names are free."""
    by_pattern = node.get("patternProperties", {})
    return next(iter(by_pattern.values()), node.get("additionalProperties"))


def _alternative(node: dict[str, Any]) -> dict[str, Any]:
    """The part of "this or null" that is not null."""
    choices = [choice for choice in node.get("anyOf", []) if choice.get("type") != "null"]
    return choices[0] if choices else node


def _resolve(node: Any, definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if not isinstance(node, dict):
        return {}
    reference = node.get("$ref")
    return definitions[reference.rpartition("/")[2]] if reference else node


def _kind(node: dict[str, Any], target: dict[str, Any], definitions: dict[str, dict[str, Any]]) -> str:
    if "enum" in target:
        return " or ".join(f"`{value}`" for value in target["enum"])
    if "const" in target:
        return f"`{target['const']}`"
    if target.get("type") == "array":
        items = _resolve(target["items"], definitions)
        return f"list of {_kind(target['items'], items, definitions)}"
    if target.get("type") == "object":
        values = _values(target)
        if isinstance(values, dict) and "oneOf" in values:
            return "by name: settings of one kind"
        if isinstance(values, dict):
            return f"by name: {_kind(values, _resolve(values, definitions), definitions)}"
        return "settings"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
    return words[target["type"]] + _limits(node)


def _limits(node: dict[str, Any]) -> str:
    parts = [
        f"{words} {node[key]}"
        for key, words in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        if key in node
    ]
    if "maxLength" in node:
        parts.append(f"at most {node['maxLength']} characters")
    return f", {' '.join(parts)}" if parts else ""


def _default(node: dict[str, Any], target: dict[str, Any], required: bool) -> str:
    if required:
        return "**required**"
    if "properties" in target and "anyOf" not in node:
        return "those below"
    if node.get("default") is None:
        return "see meaning"
    return f"`{json.dumps(node['default'])}`"


if __name__ == "__main__":
    DOCUMENT.write_text(configuration_md(), encoding="utf-8")
    SCHEMA.write_text(schema_json(), encoding="utf-8")
