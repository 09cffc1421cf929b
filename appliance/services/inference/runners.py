"""The loaded models of the inference process: each on its engine, on a server, or on ONNX Runtime."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np

from appliance.config.schema import Config
from appliance.domain.errors import ApplianceError, GiveUp
from appliance.observe import metrics
from appliance.runtime.base import DeviceFault, OutOfDeviceMemory, Outputs, Tensors, Unavailable, batches_of
from appliance.runtime.cores import usable_cores
from appliance.runtime.cuda import Device
from appliance.runtime.engine_store import EngineKey, EngineRecord, EngineStore
from appliance.runtime.onnx import OnnxRunner
from appliance.runtime.trt import EngineRunner
from appliance.services.inference.engines import Machine, choose, make_ready, profiles_in, survey
from appliance.services.inference.health import ModelHealth
from appliance.services.inference.remote import RemoteModel, remote_model
from appliance.services.packages import Package

_MIB = 1 << 20

_log = logging.getLogger(__name__)


class ModelRunner:
    """One model: its engine or the server, and ONNX Runtime for what these do not take, or for all."""

    def __init__(self, model: str, graph: OnnxRunner, remote: RemoteModel | None = None) -> None:
        self._model = model
        self._graph = graph
        self._remote = remote
        self._engine: EngineRunner | None = None
        self._engine_sha256 = ""
        self._ran: set[str] = set()

    @property
    def name(self) -> str:
        """The runtime that is preferred now."""
        server = None if self._remote is None else self._remote.serving
        preferred = self._engine or server
        return self._graph.name if preferred is None else preferred.name

    @property
    def engine_sha256(self) -> str:
        """Of the engine in use; empty without one."""
        return self._engine_sha256

    def run(self, inputs: Tensors) -> Outputs:
        """See `Runner.run`.

        Raises:
            DeviceFault: the GPU is lost to this process, which has to be started anew.
        """
        if self._remote is not None:
            (outputs,) = self._on_server(self._remote, (inputs,))
            return outputs
        engine = self._engine
        if engine is None:
            return self._on_graph(inputs)
        if not engine.takes(inputs):
            metrics.ENGINE_FALLBACKS.labels(model=self._model, reason="shape").inc()
            return self._on_graph(inputs)
        try:
            return self._on_engine(engine, inputs)
        except GiveUp as error:
            _log.error("engine_taken_out", extra={"model": self._model, "reason": str(error)})
            metrics.ENGINE_FALLBACKS.labels(model=self._model, reason="refused").inc()
            self.use(None, "")
            return self._on_graph(inputs)

    def run_each(self, batches: Iterable[Tensors]) -> Iterator[Outputs]:
        """See `Overlapping.run_each`. What the engine does not take or fails at goes through `run`."""
        if self._remote is not None:
            yield from self._on_server(self._remote, batches)
            return
        source, waiting = iter(batches), deque[Tensors]()
        engine = self._engine
        if engine is not None:
            # Told by `run`, which is asked next for the batches that have no answer yet.
            with suppress(GiveUp, OutOfDeviceMemory):
                for outputs in engine.run_each(_while_taken(engine, source, waiting)):
                    self._ran.add(f"{engine.name} sha256:{self._engine_sha256}")
                    waiting.popleft()
                    yield outputs
        for inputs in chain(waiting, source):
            yield self.run(inputs)

    def use(self, engine: EngineRunner | None, sha256: str) -> None:
        """Run on `engine` from now on, or on ONNX Runtime; the engine before is released."""
        if self._engine is not None:
            self._engine.close()
        self._engine, self._engine_sha256 = engine, sha256

    def close(self) -> None:
        """Release the engine, or leave the server."""
        self.use(None, "")
        if self._remote is not None:
            self._remote.close()

    def start_job(self) -> None:
        """Forget what ran before."""
        self._ran.clear()

    @property
    def ran(self) -> tuple[str, ...]:
        """What ran in this job, such as `onnxruntime-cpu 1.23.2 sha256:0123...`, for its results."""
        return tuple(sorted(self._ran))

    def _on_engine(self, engine: EngineRunner, inputs: Tensors) -> Outputs:
        """In halves where the GPU has no memory, and on ONNX Runtime where one image is too much."""
        try:
            outputs = engine.run(inputs)
        except OutOfDeviceMemory:
            count = len(next(iter(inputs.values())))
            if count == 1:
                metrics.ENGINE_FALLBACKS.labels(model=self._model, reason="memory").inc()
                return self._on_graph(inputs)
            halves = [self._on_engine(engine, half) for half in batches_of(inputs, (count + 1) // 2)]
            return {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}
        self._ran.add(f"{engine.name} sha256:{self._engine_sha256}")
        return outputs

    def _on_server(self, remote: RemoteModel, batches: Iterable[Tensors]) -> Iterator[Outputs]:
        for ran, outputs in remote.run_each(
            batches, lambda inputs: (self._graph_ran, self._graph.run(inputs))
        ):
            self._ran.add(ran)
            yield outputs

    def _on_graph(self, inputs: Tensors) -> Outputs:
        self._ran.add(self._graph_ran)
        return self._graph.run(inputs)

    @property
    def _graph_ran(self) -> str:
        return f"{self._graph.name} {self._graph.version} sha256:{self._graph.sha256}"


class ModelRunners:
    """All models of the process, and the engines that are built for them in the background."""

    def __init__(
        self, config: Config, packages: Sequence[Package], health: ModelHealth, alive: Callable[[], None]
    ) -> None:
        """Load every model that is in service; `alive` is called after each."""
        self._config = config
        self._health = health
        self._packages = {package.manifest.id: package for package in packages}
        self._runners: dict[str, ModelRunner] = {}
        self._seen = -1
        for model in self._packages:
            with suppress(GiveUp):  # out of service now
                if health.is_in_service(model):
                    self._load(model)
            alive()
        self._machine: Machine = survey()
        self._store = _store(config)
        self._device: Device | None = None
        self._device_lost = False
        self._stopping = threading.Event()
        wanted = self.refresh()
        if wanted and self._store is not None:
            arguments = (wanted, self._store)
            threading.Thread(target=self._make_ready, args=arguments, name="engines", daemon=True).start()

    def for_job(self, model: str) -> ModelRunner:
        """The runner of a configured model, with nothing in `ran`. One that was out of service is loaded now.

        Raises:
            GiveUp: the model cannot be loaded, and is out of service.
        """
        runner = self._runners.get(model) or self._load(model)
        runner.start_job()
        return runner

    def refresh(self) -> list[tuple[Package, EngineKey]]:
        """Take up engines that became active since the last call. Returns what has to be built."""
        if self._store is None:
            return []
        seen = self._store.changed_at()
        if seen == self._seen:
            return []
        self._seen = seen
        wanted: list[tuple[Package, EngineKey]] = []
        for model, runner in self._runners.items():
            package = self._packages[model]
            setting = package.pipeline.runtime or self._config.inference.runtime
            choice = choose(setting, package, self._machine, self._store)
            wanted += [(package, key) for key in choice.wanted]
            if choice.engine is None:  # refused since, by a test of the model
                runner.use(None, "")
            elif choice.engine.sha256 != runner.engine_sha256:
                self._open(runner, choice.engine, self._store)
            _log.info(
                "runtime_chosen",
                extra={"model": model, "runtime": runner.name, "reasons": list(choice.reasons)},
            )
        return wanted

    def close(self) -> None:
        """Release engines and GPU. An engine that is being built is left to its process."""
        self._stopping.set()
        for runner in self._runners.values():
            runner.close()
        if self._device is not None:
            self._device.close()
            self._device = None

    def _load(self, model: str) -> ModelRunner:
        package = self._packages[model]
        with self._health.loading(model):
            threads = self._config.inference.threads or usable_cores()
            graph = OnnxRunner(package.weights, threads=threads)
            if graph.sha256 != package.manifest.weights.sha256:
                raise GiveUp(f"{package.weights.name} is not the file that model.yaml names")
        runner = ModelRunner(model, graph, remote_model(self._config, package, graph))
        self._runners[model] = runner
        self._seen = -1  # it may have an engine
        return runner

    def _open(self, runner: ModelRunner, record: EngineRecord, store: EngineStore) -> None:
        if self._device_lost:
            return
        try:
            if self._device is None:
                self._device = Device()
            engine = EngineRunner(
                self._machine.libraries[record.key.flavour],
                self._device,
                store.read(record),
                profiles=profiles_in(record.key),
                memory_bytes=self._config.inference.gpu_memory_mb * _MIB,
                step_s=self._config.inference.gpu_step_s,
            )
        except (GiveUp, OutOfDeviceMemory, DeviceFault) as error:
            # What failed in the driver fails for the rest of this process; the processor is not concerned.
            self._device_lost = isinstance(error, (Unavailable, DeviceFault))
            _log.error("engine_not_loaded", extra={"model": record.key.model, "reason": str(error)})
            metrics.ENGINE_FALLBACKS.labels(model=record.key.model, reason="refused").inc()
            return
        runner.use(engine, record.sha256)

    def _make_ready(self, wanted: list[tuple[Package, EngineKey]], store: EngineStore) -> None:
        for package, key in wanted:
            if self._stopping.is_set():
                return
            try:
                record = make_ready(self._config, package, key, store, self._machine, _progress)
                result: str = record.verdict
                _log.info("engine_judged", extra={"model": key.model, "engine": key.name, "result": result})
            except ApplianceError as error:
                result = "failed"
                _log.error("engine_not_built", extra={"model": key.model, "reason": str(error)})
            metrics.ENGINES_JUDGED.labels(model=key.model, result=result).inc()


def _while_taken(
    engine: EngineRunner, source: Iterator[Tensors], waiting: deque[Tensors]
) -> Iterator[Tensors]:
    """Batches up to the first that the engine does not take; all that were looked at are in `waiting`."""
    for inputs in source:
        waiting.append(inputs)
        if not engine.takes(inputs):
            return
        yield inputs


def _store(config: Config) -> EngineStore | None:
    """The store of engines; None if it cannot be used, which leaves ONNX Runtime."""
    try:
        store = EngineStore(config.engine_directory)
    except ApplianceError as error:
        _log.error("engines_unusable", extra={"reason": str(error)})
        return None
    store.remove_unfinished()
    return store


def _progress(line: dict[str, Any]) -> None:
    _log.info("engine_progress", extra={key: value for key, value in line.items() if key != "kind"})
