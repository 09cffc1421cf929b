"""Read the configuration file and name all mistakes in it at once, each with its line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from appliance.config.destinations import kind_of
from appliance.config.schema import Config, Listener, Monitor
from appliance.config.values import EVERY_ADDRESS, TLS_PORT
from appliance.domain.errors import Misconfigured

Location = tuple[str | int, ...]
DEEPEST = 8


@dataclass
class _Document:
    """The file's values, and the line of each of them."""

    values: dict[str, Any]
    lines: dict[Location, int] = field(default_factory=dict)
    mistakes: dict[Location, list[str]] = field(default_factory=dict)

    def mistake(self, location: Location, sentence: str) -> None:
        self.mistakes.setdefault(location, []).append(sentence)

    def line(self, location: Location) -> int | None:
        """Line of the value, or of the nearest enclosing one that the file has."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location)

    def problems(self) -> list[str]:
        """One line for each mistake, in the order of the file."""
        located = sorted(self.mistakes.items(), key=lambda item: self.line(item[0]) or 0)
        result = []
        for location, sentences in located:
            line = self.line(location)
            suffix = "" if line is None else f" (line {line})"
            result += [f"{'.'.join(map(str, location))}: {sentence}{suffix}" for sentence in sentences]
        return result


def load(path: Path) -> Config:
    """The configuration in the YAML file `path`. Paths in it are relative to its folder.

    Raises:
        Misconfigured: the file cannot be read or has mistakes; `problems` holds a line for each,
            such as `destinations.pacs.port: 70000 is not a valid port (line 13)`.
    """
    document = _read(path)
    sections = _validate_sections(document, path.resolve().parent)
    _check_destination_names(document, sections)
    _check_rules(document, sections)
    _check_ports(document)
    _check_commitment(document, sections)
    _check_triton(document, sections)
    if document.mistakes:
        raise Misconfigured(document.problems())
    return Config.model_validate(sections)


def _read(path: Path) -> _Document:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Misconfigured([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise Misconfigured([f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}"]) from error
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise Misconfigured([f"{path}: holds no settings"])
        document = _Document({})
        _note_lines(root, (), document)
        document.values = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise Misconfigured([f"{path}: is not valid YAML: {error.problem}{line}"]) from error
    except yaml.YAMLError as error:
        raise Misconfigured([f"{path}: is not valid YAML"]) from error
    finally:
        loader.dispose()
    return document


def _note_lines(node: yaml.Node, location: Location, document: _Document) -> None:
    # An alias may make a value contain itself; no setting lies as deep as this.
    if len(location) > DEEPEST:
        return
    for key, line, child in _children(node):
        place = (*location, key)
        if place in document.lines:
            document.mistake(place, "is given twice")
        else:
            _note_lines(child, place, document)
        document.lines[place] = line


def _children(node: yaml.Node) -> Iterator[tuple[str | int, int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield index, item.start_mark.line + 1, item


def _validate_sections(document: _Document, folder: Path) -> dict[str, Any]:
    """The valid sections; the mistakes of the others are noted.

    Section by section, so that one wrong section does not hide what is wrong between the others.
    """
    sections: dict[str, Any] = {}
    for name in document.values.keys() - Config.model_fields.keys():
        document.mistake((str(name),), _unknown(str(name), Config.model_fields))
    for name, setting in Config.model_fields.items():
        if name not in document.values:
            if setting.is_required():
                document.mistake((name,), "is required")
            else:
                sections[name] = setting.get_default(call_default_factory=True)
            continue
        adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, setting.annotation))
        try:
            sections[name] = adapter.validate_python(document.values[name], context={"folder": folder})
        except ValidationError as error:
            for details in error.errors():
                place = _place(name, details["loc"])
                document.mistake((name, *place), _sentence(details, place, setting.annotation))
    return sections


def _place(section: str, location: Location) -> Location:
    """Where a mistake stands in its section of the file."""
    if section == "destinations":
        # The second part is the kind, by which the class was chosen.
        location = (*location[:1], *location[2:])
    return tuple(part for part in location if part != "[key]")


def _sentence(details: ErrorDetails, place: Location, section: object) -> str:
    """What is wrong, in words that follow `path: `."""
    value, context = details["input"], details.get("ctx", {})
    match details["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return _unknown(str(place[-1]), _known_settings(section, details["loc"]))
        case "union_tag_invalid":
            return f"{context['tag']!r} is not a kind of destination: one of {context['expected_tags']}"
        case "value_error":
            return str(context["error"])
        case "greater_than_equal" | "greater_than":
            return f"{value!r} is too small: at least {context.get('ge', context.get('gt'))}"
        case "less_than_equal" | "less_than":
            return f"{value!r} is too large: at most {context.get('le', context.get('lt'))}"
        case "literal_error":
            return f"{value!r} is not one of {context['expected']}"
        case "string_pattern_mismatch":
            return f"{value!r} is not a valid name"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{value!r} is not a group of settings"
        case "too_short":
            return "must not be empty"
    kinds = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "text",
        "list": "a list",
    }
    kind = kinds.get(details["type"].partition("_")[0])
    return f"{value!r} is not {kind}" if kind else f"{value!r} is not valid: {details['msg']}"


def _known_settings(section: object, location: Location) -> Iterable[str]:
    """Names of the settings beside the one at `location`."""
    current = section
    for part in location[:-1]:
        if isinstance(current, type) and issubclass(current, BaseModel):
            current = current.model_fields[str(part)].annotation if part in current.model_fields else None
        elif kinds := _by_tag(current):
            current = kinds.get(part)
        else:
            current = next(iter(reversed(getattr(current, "__args__", (None,)))), None)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return current.model_fields
    return ()


def _by_tag(annotation: object) -> dict[str | int, object]:
    """The classes of a union whose members are told apart by tags; none of anything else."""
    union = get_args(annotation)[0] if get_origin(annotation) is Annotated else None
    members = [get_args(member) for member in get_args(union) if get_origin(member) is Annotated]
    return {mark.tag: kind for kind, *marks in members for mark in marks if isinstance(mark, Tag)}


def _unknown(name: str, known: Iterable[str]) -> str:
    similar = get_close_matches(name, list(known), n=1)
    return "is not a known setting" + (f"; did you mean {similar[0]}?" if similar else "")


def _check_destination_names(document: _Document, sections: dict[str, Any]) -> None:
    # From the file itself: a destination with a mistake in it is still a known name.
    destinations = _group(document.values, "destinations")
    known = {str(name) for name in destinations}
    used: list[tuple[Location, str]] = []
    for index, name in enumerate(sections.get("originals") or []):
        used.append((("originals", index), name))
    for number, pipeline in enumerate(sections.get("pipelines", [])):
        for index, name in enumerate(pipeline.destinations):
            used.append((("pipelines", number, "destinations", index), name))
    for location, name in used:
        if name not in known:
            document.mistake(location, f"{name!r} is not the name of a destination")
        elif location[0] == "originals" and kind_of(destinations[name]) != "dicom":
            document.mistake(location, f"{name!r} is not a DICOM destination, so it cannot get originals")


def _check_rules(document: _Document, sections: dict[str, Any]) -> None:
    """A rule that can never fit sends nothing, which nobody would notice."""
    station = sections.get("station")
    titles = {station.ae_title, *station.other_ae_titles} if station else None
    models = {pipeline.model for pipeline in sections["pipelines"]} if "pipelines" in sections else None
    for name, destination in (sections.get("destinations") or {}).items():
        place = ("destinations", name, "only")
        for index, title in enumerate(destination.only.called_ae_title):
            if titles is not None and title not in titles:
                document.mistake(
                    (*place, "called_ae_title", index), f"{title!r} is not a title of the appliance"
                )
        for index, model in enumerate(destination.only.model):
            if models is not None and model not in models:
                document.mistake((*place, "model", index), f"{model!r} is not the model of a pipeline")


def _check_ports(document: _Document) -> None:
    # From the file itself, for the same reason.
    listener, monitor = _group(document.values, "listener"), _group(document.values, "monitor")
    address = listener.get("host", Listener().host)
    taken: list[tuple[tuple[str, ...], Any, Any]] = [
        (("listener", "port"), address, listener.get("port", Listener().port))
    ]
    if tls := _group(listener, "tls"):
        taken.append((("listener", "tls", "port"), address, tls.get("port", TLS_PORT)))
    taken.append(
        (("monitor", "port"), monitor.get("host", Monitor().host), monitor.get("port", Monitor().port))
    )
    for index, (location, host, port) in enumerate(taken):
        for other, other_host, other_port in taken[:index]:
            if port == other_port and (host == other_host or {host, other_host} & EVERY_ADDRESS):
                document.mistake(location, f"{port!r} is already the port of {'.'.join(other)}")
    for name in _group(document.values, "destinations"):
        destination = _group(document.values["destinations"], name)
        local = destination.get("host") in {address, "127.0.0.1", "localhost"}
        if local and destination.get("port") == listener.get("port", Listener().port):
            document.mistake(
                ("destinations", str(name), "port"),
                f"{destination['port']!r} on this host is the appliance's own listener",
            )


def _check_commitment(document: _Document, sections: dict[str, Any]) -> None:
    listener = sections.get("listener")
    if listener is None:
        return
    titles = {rule.ae_title for rule in listener.accept}
    for name, destination in sections.get("destinations", {}).items():
        if destination.commitment and not titles & {"*", destination.ae_title}:
            document.mistake(
                ("destinations", name, "commitment"),
                f"needs a rule in listener.accept that lets {destination.ae_title} report",
            )


def _check_triton(document: _Document, sections: dict[str, Any]) -> None:
    inference, pipelines = sections.get("inference"), sections.get("pipelines")
    if inference is None or pipelines is None:
        return
    asking: list[tuple[Location, str | None]] = [(("inference", "runtime"), inference.runtime)]
    asking += [(("pipelines", number, "runtime"), one.runtime) for number, one in enumerate(pipelines)]
    for location, runtime in asking:
        if runtime == "triton" and inference.triton is None:
            document.mistake(location, "'triton' needs the server in inference.triton")
    if inference.triton is None:
        return
    if inference.triton.timeout_s > inference.step_s / 2:
        document.mistake(
            ("inference", "triton", "timeout_s"),
            f"{inference.triton.timeout_s:g} is more than half of inference.step_s",
        )
    used = {pipeline.model for pipeline in pipelines}
    for model in inference.triton.models:
        if model not in used:
            place = ("inference", "triton", "models", model)
            document.mistake(place, f"{model!r} is not the model of a pipeline")


def _group(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The group of settings `name`; empty if there is none or something else stands there."""
    group = values.get(name)
    return group if isinstance(group, dict) else {}
