"""The life of engines: what could run here, which engine a model gets, building, comparing, cleaning up.

    (nothing) --build--> candidate --parity gate--> active | refused

Building and the gate run in processes of their own; until an engine is active the one before it serves, or
ONNX Runtime. Without a GPU an engine stays a candidate: only what was compared on a device is activated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from appliance.config.schema import Config, Runtime
from appliance.domain.errors import ApplianceError, GiveUp, TryAgain
from appliance.models.manifest import EngineRules
from appliance.runtime.base import Limits, Profile, Unavailable
from appliance.runtime.cuda import DeviceFacts, device_facts
from appliance.runtime.engine_store import EngineKey, EngineRecord, EngineStore, NotOurs, judged
from appliance.runtime.engine_worker import Request, profiles_as_plain, profiles_from_plain, work
from appliance.runtime.trt import SLOTS
from appliance.runtime.trt_build import BUILDER_REVISION
from appliance.runtime.trt_library import FLAVOURS, Flavour, Library, load_library
from appliance.services.packages import Package

PRECISION = "fp32"
_MIB = 1 << 20

Say = Callable[[dict[str, Any]], None]
"""Called with each line of progress: `model`, `task`, and the builder's `phase`, `step`, `steps`."""


@dataclass(frozen=True)
class Machine:
    """The libraries and the GPU that are here, and for each that is not, why."""

    libraries: Mapping[Flavour, Library]
    gpu: DeviceFacts | None
    lacking: Mapping[str, str]


@dataclass(frozen=True)
class Choice:
    """The engine that a model gets (None: ONNX Runtime), what to build, and why not what comes first."""

    engine: EngineRecord | None
    wanted: tuple[EngineKey, ...]
    reasons: tuple[str, ...]


def survey(*, without_gpu: bool = False) -> Machine:
    """Look for GPU and libraries. Opens no context.

    The libraries are large, so they are loaded only where there is a GPU to use them, or with `without_gpu`.
    """
    libraries: dict[Flavour, Library] = {}
    lacking: dict[str, str] = {}
    gpu = None
    try:
        gpu = device_facts()
    except Unavailable as error:
        lacking = dict.fromkeys((*FLAVOURS, "gpu"), str(error))
    for flavour in FLAVOURS if gpu is not None or without_gpu else ():
        try:
            libraries[flavour] = load_library(flavour)
        except Unavailable as error:
            lacking[flavour] = str(error)
    return Machine(libraries, gpu, lacking)


def profiles_of(rules: EngineRules) -> list[Profile]:
    """The profiles of a manifest."""
    return [
        {name: Limits(shape.smallest, shape.usual, shape.largest) for name, shape in profile.items()}
        for profile in rules.profiles
    ]


def target_here(flavour: Flavour, gpu: DeviceFacts) -> str:
    """The GPU, as far as an engine of this flavour depends on it."""
    if flavour == "tensorrt_rtx":
        return gpu.target
    return f"{gpu.name}, {gpu.target}, {gpu.multiprocessors} multiprocessors, driver {gpu.driver}"


def engine_key(package: Package, library: Library, target: str) -> EngineKey:
    """The key of the engine of `package` for `target`.

    Raises:
        GiveUp: the package does not say what its engines are built for.
    """
    plain = profiles_as_plain(profiles_of(_rules(package)))
    return EngineKey(
        model=package.manifest.id,
        model_sha256=package.manifest.weights.sha256,
        flavour=library.flavour,
        version=library.version,
        target=target,
        precision=PRECISION,
        profiles=json.dumps(plain, sort_keys=True, separators=(",", ":")),
        builder_revision=BUILDER_REVISION,
    )


def profiles_in(key: EngineKey) -> list[Profile]:
    """The profiles that an engine was built with."""
    return profiles_from_plain(json.loads(key.profiles))


def choose(setting: Runtime, package: Package, machine: Machine, store: EngineStore) -> Choice:
    """What runs the model: the first of `auto`'s order that is here and has an active engine."""
    flavours = [flavour for flavour in FLAVOURS if setting in ("auto", flavour)]
    wanted: list[EngineKey] = []
    reasons: list[str] = []
    for flavour in flavours:
        reason = _obstacle(flavour, package, machine)
        if reason is not None:
            reasons.append(f"{flavour}: {reason}")
            continue
        assert machine.gpu is not None
        key = engine_key(package, machine.libraries[flavour], target_here(flavour, machine.gpu))
        try:
            record = store.find(key)
        except NotOurs as error:
            record, reason = None, str(error)
        if record is not None and record.verdict == "active":
            return Choice(record, tuple(wanted), tuple(reasons))
        if record is not None and record.verdict == "refused":
            reasons.append(f"{flavour}: the engine differs from ONNX Runtime, see `appliance engines list`")
            continue
        wanted.append(key)
        reasons.append(f"{flavour}: {reason or 'the engine is not ready yet'}")
        previous = _previous(key, store)
        if previous is not None:
            return Choice(previous, tuple(wanted), tuple(reasons))
    return Choice(None, tuple(wanted), tuple(reasons))


def chosen(config: Config, package: Package, machine: Machine) -> Choice:
    """What would run the model if the appliance were started now. Makes no folder and loads nothing."""
    setting = package.pipeline.runtime or config.inference.runtime
    if machine.gpu is None or not config.engine_directory.exists():
        flavours = [flavour for flavour in FLAVOURS if setting in ("auto", flavour)]
        reasons = [(flavour, _obstacle(flavour, package, machine)) for flavour in flavours]
        return Choice(
            None,
            (),
            tuple(f"{flavour}: {reason or 'no engine was built yet'}" for flavour, reason in reasons),
        )
    try:
        store = EngineStore(config.engine_directory)
    except ApplianceError as error:  # as in the appliance itself, that leaves ONNX Runtime
        return Choice(None, (), (str(error),))
    return choose(setting, package, machine, store)


def make_ready(
    config: Config, package: Package, key: EngineKey, store: EngineStore, machine: Machine, say: Say
) -> EngineRecord:
    """Build the engine of `key` where it is missing, and put it to the gate where its GPU is here.

    Raises:
        GiveUp: it cannot be built.
        TryAgain: another process builds it, or a process that did died.
    """
    with store.building(key.name) as mine:
        if not mine:
            raise TryAgain(f"another process builds {key.name}")
        record = _intact(key, store) or _build(config, package, key, store, say)
        here = machine.gpu is not None and key.target == target_here(key.flavour, machine.gpu)
        return (
            _gate(config, package, record, store, say) if here and record.verdict == "candidate" else record
        )


def compare_again(config: Config, package: Package) -> None:
    """Put the active engine of the model to the gate once more; without one there is nothing to do.

    Raises:
        TryAgain: the process that compares died, or the GPU failed.
    """
    machine = survey()
    if machine.gpu is None or not config.engine_directory.exists():
        return
    store = EngineStore(config.engine_directory)
    record = choose(package.pipeline.runtime or config.inference.runtime, package, machine, store).engine
    if record is not None:
        with store.building(record.key.name) as mine:
            if mine:
                _gate(config, package, record, store, lambda _line: None)


def superfluous(
    store: EngineStore, packages: Sequence[Package], machine: Machine
) -> Iterator[tuple[str, str]]:
    """Names of engines that nothing can use any more, each with the reason.

    Engines of a library that cannot be loaded now are kept: it may be back after an update.
    """
    weights = {package.manifest.weights.sha256: package for package in packages}
    for name, record in store.records():
        if isinstance(record, NotOurs):
            yield name, str(record)
            continue
        key, package = record.key, weights.get(record.key.model_sha256)
        library = machine.libraries.get(key.flavour)
        if package is None:
            yield name, "no pipeline uses this model file"
        elif library is not None and key.version != library.version:
            yield name, f"it was built with {key.flavour} {key.version}, and {library.version} is installed"
        elif library is not None and (
            package.manifest.engine is None or engine_key(package, library, key.target) != key
        ):
            yield name, "it was built with other profiles, or by another release of the appliance"


def _rules(package: Package) -> EngineRules:
    if package.manifest.engine is None:
        raise GiveUp(f"model {package.manifest.id}: model.yaml does not say what engines are built for")
    return package.manifest.engine


def _obstacle(flavour: Flavour, package: Package, machine: Machine) -> str | None:
    library = machine.libraries.get(flavour)
    if library is None:
        return machine.lacking[flavour]
    if machine.gpu is None:
        return machine.lacking["gpu"]
    if package.manifest.engine is None:
        return "model.yaml does not say what engines are built for"
    if library.builds_for_absent_gpus and machine.gpu.target not in library.targets:
        return f"{library.version} does not support {machine.gpu.name} ({machine.gpu.target})"
    return None


def _previous(key: EngineKey, store: EngineStore) -> EngineRecord | None:
    """An active engine of the same model file for the same library and GPU, only built in another way."""
    for _, record in store.records():
        if not isinstance(record, NotOurs) and record.verdict == "active":
            same = replace(record.key, profiles=key.profiles, builder_revision=key.builder_revision)
            if same == key:
                return record
    return None


def _intact(key: EngineKey, store: EngineStore) -> EngineRecord | None:
    try:
        record = store.find(key)
        if record is not None:
            store.read(record)
    except NotOurs:  # built anew, in its place
        return None
    return record


def _request(config: Config, package: Package, key: EngineKey, engine: str) -> Request:
    rules = _rules(package)
    folder = package.weights.parent
    return Request(
        task="build",
        flavour=key.flavour,
        graph=str(package.weights),
        graph_sha256=key.model_sha256,
        profiles=json.loads(key.profiles),
        memory_bytes=config.inference.gpu_memory_mb * _MIB // SLOTS,
        engine=engine,
        targets=(key.target,) if key.flavour == "tensorrt_rtx" else (),
        golden=str(folder / rules.golden.file),
        golden_sha256=rules.golden.sha256,
        limits=dict(rules.parity),
        step_s=config.inference.gpu_step_s,
    )


def _build(config: Config, package: Package, key: EngineKey, store: EngineStore, say: Say) -> EngineRecord:
    unfinished = store.path(key).with_suffix(".built.unfinished")
    try:
        answer = work(
            _request(config, package, key, str(unfinished)),
            lambda line: say({**line, "model": key.model, "task": "build"}),
            limit_s=config.inference.engine_build_s,
        )
        plan = unfinished.read_bytes()
    finally:
        unfinished.unlink(missing_ok=True)
    record = EngineRecord(
        key=key,
        size=answer["size"],
        sha256=answer["sha256"],
        built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        build_s=answer["seconds"],
        verdict="candidate",
        parity={},
    )
    store.put(record, plan)
    return record


def _gate(
    config: Config, package: Package, record: EngineRecord, store: EngineStore, say: Say
) -> EngineRecord:
    path = store.path(record.key)
    request = replace(
        _request(config, package, record.key, str(path)),
        task="gate",
        engine_sha256=record.sha256,
        memory_bytes=config.inference.gpu_memory_mb * _MIB,
    )
    say({"kind": "progress", "model": record.key.model, "task": "gate", "phase": "", "step": 0, "steps": 0})
    try:
        parity = work(request, lambda _line: None, limit_s=config.inference.engine_build_s)["parity"]
    except GiveUp as error:
        parity = {"passed": False, "problem": str(error)}
    result = judged(record, "active" if parity["passed"] else "refused", parity)
    store.sign(result)
    return result
