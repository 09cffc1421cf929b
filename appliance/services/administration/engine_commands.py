"""What `appliance engines build|list|verify|prune` do."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.config.schema import Config
from appliance.domain.errors import ApplianceError, GiveUp, Misconfigured
from appliance.runtime.engine_store import EngineKey, EngineRecord, EngineStore, NotOurs
from appliance.runtime.trt_library import FLAVOURS, Flavour
from appliance.services.administration.report import Row
from appliance.services.inference.engines import (
    Machine,
    Say,
    engine_key,
    make_ready,
    superfluous,
    survey,
    target_here,
)
from appliance.services.packages import Package, load_packages

COLUMNS = ["engine", "model", "runtime", "target", "verdict", "detail"]


def build(
    config: Config,
    *,
    models: Sequence[str],
    flavour: Flavour | None,
    targets: Sequence[str],
    again: bool,
    say: Say,
) -> tuple[list[Row], list[str]]:
    """Build engines for `targets` (compute capabilities such as SM86; none: the GPU that is here).

    `again` builds also what is there already. Returns the engines, and a sentence for each that failed.

    Raises:
        Misconfigured: a model or a target is unknown, or no library can build for it.
    """
    packages = _selected(config, models)
    machine = survey(without_gpu=True)
    store = EngineStore(config.engine_directory)
    rows: list[Row] = []
    problems: list[str] = []
    for package in packages:
        if package.manifest.engine is None:
            problems.append(f"{package.manifest.id}: model.yaml does not say what engines are built for")
            continue
        for key in _keys(package, machine, flavour, targets):
            try:
                if again:
                    store.remove(key.name)
                record = make_ready(config, package, key, store, machine, say)
            except ApplianceError as error:
                problems.append(f"{key.model} for {key.target}: {error}")
                continue
            rows.append(_row(key.name, record))
            if record.verdict == "refused":
                problems.append(f"{key.model} for {key.target}: the engine differs from ONNX Runtime")
    return rows, problems


def listed(config: Config) -> list[Row]:
    """Every engine, also those that are refused; none before the first is built."""
    if not config.engine_directory.exists():
        return []
    return [_row(name, record) for name, record in EngineStore(config.engine_directory).records()]


def verify(config: Config) -> tuple[list[Row], list[str]]:
    """Every engine with its file checked against its record, and a sentence for each that is refused."""
    rows: list[Row] = []
    problems: list[str] = []
    if not config.engine_directory.exists():
        return rows, problems
    store = EngineStore(config.engine_directory)
    for name, record in store.records():
        checked: EngineRecord | NotOurs = record
        if isinstance(record, EngineRecord):
            try:
                store.read(record)
            except NotOurs as error:
                checked = error
        rows.append(_row(name, checked))
        if isinstance(checked, NotOurs):
            problems.append(str(checked))
    return rows, problems


def prune(config: Config, *, dry_run: bool) -> list[Row]:
    """Delete engines that nothing can use any more; `dry_run` only names them."""
    if not config.engine_directory.exists():
        return []
    store = EngineStore(config.engine_directory)
    found = list(superfluous(store, load_packages(config), survey(without_gpu=True)))
    for name, _ in found if not dry_run else ():
        store.remove(name)
    return [{"engine": name, "detail": reason} for name, reason in found]


def _selected(config: Config, models: Sequence[str]) -> list[Package]:
    packages = load_packages(config)
    unknown = sorted(set(models) - {package.manifest.id for package in packages})
    if unknown:
        raise Misconfigured([f"no pipeline has the model {name}" for name in unknown])
    return [package for package in packages if not models or package.manifest.id in models]


def _keys(
    package: Package, machine: Machine, flavour: Flavour | None, targets: Sequence[str]
) -> list[EngineKey]:
    """The keys to build: of the named library, or of the first that can."""
    why: list[str] = []
    for candidate in (flavour,) if flavour is not None else FLAVOURS:
        library = machine.libraries.get(candidate)
        if library is None:
            why.append(machine.lacking[candidate])
        elif not targets:
            if machine.gpu is not None:
                return [engine_key(package, library, target_here(candidate, machine.gpu))]
            why.append(
                f"{candidate}: {machine.lacking['gpu']}; name the GPU's compute capability with --target"
            )
        elif unknown := sorted(set(targets) - set(library.targets)):
            offered = ", ".join(library.targets) or "the GPU that is here, without --target"
            why.append(f"{candidate} {library.version} does not build for {unknown[0]}, only for {offered}")
        else:
            return [engine_key(package, library, target) for target in targets]
    raise GiveUp("no engine can be built: " + "; ".join(why))


def _row(name: str, record: EngineRecord | NotOurs) -> Row:
    if isinstance(record, NotOurs):
        return {
            "engine": name,
            "model": "",
            "runtime": "",
            "target": "",
            "verdict": "not ours",
            "sha256": "",
            "detail": str(record),
        }
    return {
        "engine": name,
        "model": record.key.model,
        "runtime": f"{record.key.flavour} {record.key.version}",
        "target": record.key.target,
        "verdict": record.verdict,
        "sha256": record.sha256,
        "detail": _detail(record),
    }


def _detail(record: EngineRecord) -> str:
    if record.verdict == "candidate":
        return f"built in {record.build_s:.1f} s, never executed: compared and activated only on its GPU"
    if "problem" in record.parity:
        return str(record.parity["problem"])
    return "; ".join(
        f"{name}: {output['problem'] or output['largest_difference']} of {output['limit']}"
        for name, output in record.parity["outputs"].items()
    )
