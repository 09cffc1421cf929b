"""A model that is to run on a Triton server: when it does, and when ONNX Runtime has to do it here.

    open --it answers--> half_open --compared--> closed --three failures, or the connection breaks--> open
                                   '-another model-> refused --later, again--> half_open

Every new connection may lead to another server: none serves before it has answered as ONNX Runtime does.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

from appliance.config.schema import Config
from appliance.config.triton import Triton, TritonModel
from appliance.domain.errors import GiveUp
from appliance.domain.policy import CIRCUIT_FAILURES, PROBE_MAXIMUM_S, Circuit, circuit_failed
from appliance.observe import metrics
from appliance.runtime.base import Limits, Outputs, Profile, Tensors, Unavailable
from appliance.runtime.golden import read_golden
from appliance.runtime.onnx import NAME, OnnxRunner
from appliance.runtime.parity import compare
from appliance.runtime.triton import TritonRunner
from appliance.runtime.triton_client import AnotherModel, Served, ServerFault
from appliance.services.inference.engines import profiles_of
from appliance.services.packages import Package

CHECK_EVERY_S = 5.0
COMPARE_EVERY_S = 60.0
"""A server may exchange a model without a word, under the same name and version."""
RETRY_S = 1.0

_log = logging.getLogger(__name__)

State = Literal["closed", "half_open", "open", "refused"]
Answer = tuple[str, Outputs]
"""What ran, as results name it, and what it said."""


class RemoteModel:
    """One model on the server. A thread of its own connects, compares and asks whether all is well."""

    def __init__(self, settings: Triton, package: Package, reference: OnnxRunner, *, owner: str) -> None:
        """Begin to look for the server; `owner` is that of `TritonRunner`.

        `reference` runs on the processor, and is what the server's answers are held to.
        """
        self._settings = settings
        self._package = package
        self._reference = reference
        self._owner = owner
        self._model = package.manifest.id
        self._lock = threading.Lock()
        self._serving: TritonRunner | None = None
        self._circuit = Circuit("open")
        self._told: tuple[State, str] = ("open", "")
        self._compared_s = 0.0
        self._wake = threading.Event()
        self._stopping = False
        metrics.start_triton_at_zero(self._model)
        self._show("open")
        self._thread = threading.Thread(target=self._look_after, name=f"triton {self._model}", daemon=True)
        self._thread.start()

    @property
    def serving(self) -> TritonRunner | None:
        """What runs the model now."""
        return self._serving

    def run_each(self, batches: Iterable[Tensors], here: Callable[[Tensors], Answer]) -> Iterator[Answer]:
        """The answer to each batch, in order; from `here` where the server gives none."""
        source = _Batches(batches)
        while (batch := next(source, None)) is not None:
            source.put_back([batch])
            if not (yield from self._remotely(source)):
                yield here(next(source))

    def _remotely(self, source: _Batches) -> Generator[Answer, None, bool]:
        """The server's answers; in the end, whether all have one. What has none is back in `source`."""
        runner = self._serving
        if runner is None:
            self._fell_back("circuit")
            return False
        waiting: deque[Tensors] = deque()

        def taken() -> Iterator[Tensors]:
            for batch in source:
                waiting.append(batch)
                yield batch

        try:
            for outputs in runner.run_each(taken()):
                waiting.popleft()
                self._answered(runner)
                yield runner.ran, outputs
            return True
        except ServerFault as error:
            self._fell_back(error.cause)
            self._failed(runner, error)
        except GiveUp as error:  # it concerns this batch only
            self._fell_back("refused")
            _log.warning("triton_refused_batch", extra={"model": self._model, "reason": str(error)})
        source.put_back(waiting)
        return False

    def close(self) -> None:
        """End the connection. Called by the thread that runs batches."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=self._settings.timeout_s)
        with self._lock:
            runner, self._serving = self._serving, None
        if runner is not None:
            runner.close()

    def _look_after(self) -> None:
        while not self._stopping:
            try:
                self._look()
            except Unavailable as error:  # nothing that waiting could change
                self._show("refused", str(error))
                return
            self._wake.wait(self._pause_s())
            self._wake.clear()

    def _look(self) -> None:
        runner = self._serving
        if runner is not None:
            try:
                runner.check()
                if time.monotonic() - self._compared_s > COMPARE_EVERY_S:
                    self._compare_again(runner.served)
            except ServerFault as error:
                self._failed(runner, error)
            except GiveUp as error:
                with self._lock:
                    self._serving = None
                runner.disconnect()
                self._refuse(error)
        if self._serving is None and self._circuit.probe_s <= time.monotonic():
            self._take_up()

    def _take_up(self) -> None:
        """Connect, compare, serve."""
        runner = None
        try:
            runner = self._connect(self._settings)
            self._show("half_open")
            self._compare(runner, self._golden, self._profiles)
        except ServerFault as error:
            self._circuit = _failed_again(self._circuit)
            self._show("open", str(error))
        except Unavailable:
            raise
        except GiveUp as error:
            self._refuse(error)
        else:
            with self._lock:
                self._serving, self._circuit = runner, Circuit()
            self._show("closed", runner.ran)
            return
        if runner is not None:
            runner.disconnect()

    def _compare_again(self, served: Served) -> None:
        """Over a connection of its own, for the one in use belongs to the thread that runs batches."""
        model = TritonModel(name=served.name, version=served.version or None)
        changes = {"shared_memory": False, "models": {self._model: model}}
        runner = self._connect(self._settings.model_copy(update=changes))
        try:
            self._compare(runner, self._golden[:1], ())
        finally:
            runner.disconnect()

    def _connect(self, settings: Triton) -> TritonRunner:
        return TritonRunner(
            settings,
            self._model,
            signature=self._reference.signature,
            sha256=self._reference.sha256,
            owner=self._owner,
        )

    def _compare(self, runner: TritonRunner, golden: Sequence[Tensors], profiles: Sequence[Profile]) -> None:
        """Hold the server's model to ONNX Runtime.

        Raises:
            AnotherModel: it answers otherwise.
            ServerFault: it does not answer.
        """
        rules = self._package.manifest.engine
        assert rules is not None
        result = "failed"
        try:
            parity = compare(runner, self._reference, golden, profiles, rules.parity)
            result = "passed" if parity.passed else "refused"
        finally:
            metrics.TRITON_COMPARED.labels(model=self._model, result=result).inc()
        self._compared_s = time.monotonic()
        if not parity.passed:
            _log.error("triton_differs", extra={"model": self._model, "parity": parity.as_dict()})
            raise AnotherModel("the server's model answers otherwise than ONNX Runtime")

    @cached_property
    def _golden(self) -> list[Tensors]:
        rules = self._package.manifest.engine
        if rules is None:
            raise AnotherModel("the package has no golden inputs to compare the server's model with")
        return read_golden(self._package.weights.parent / rules.golden.file, rules.golden.sha256)

    @property
    def _profiles(self) -> list[Profile]:
        """The sizes of images that engines are made for, one image at a time: the reference runs here."""
        rules = self._package.manifest.engine
        assert rules is not None
        return [
            {name: _one_image(limits) for name, limits in profile.items()} for profile in profiles_of(rules)
        ]

    def _answered(self, runner: TritonRunner) -> None:
        with self._lock:
            if runner is self._serving and self._circuit.failures:
                self._circuit = Circuit()

    def _failed(self, runner: TritonRunner, error: ServerFault) -> None:
        """Count a failure of the runner that serves. Without its connection it is over at once."""
        with self._lock:
            if runner is not self._serving:
                return
            if error.cause == "unreachable":
                self._circuit = replace(self._circuit, failures=CIRCUIT_FAILURES)
            self._circuit = _failed_again(self._circuit)
            if self._circuit.state == "closed":
                return
            self._serving = None
        runner.disconnect()
        self._show("open", str(error))
        self._wake.set()

    def _refuse(self, error: GiveUp) -> None:
        self._circuit = Circuit("open", probe_s=time.monotonic() + PROBE_MAXIMUM_S)
        self._show("refused", str(error))

    def _fell_back(self, reason: str) -> None:
        metrics.TRITON_FALLBACKS.labels(model=self._model, reason=reason).inc()

    def _pause_s(self) -> float:
        if self._serving is not None:
            return CHECK_EVERY_S
        return max(0.0, self._circuit.probe_s - time.monotonic())

    def _show(self, state: State, reason: str = "") -> None:
        """Tell of a state that is new, or has a new reason."""
        for each in metrics.TRITON_STATES:
            metrics.TRITON_STATE.labels(model=self._model, state=each).set(each == state)
        if (state, reason) != self._told and state != "half_open":
            self._told = (state, reason)
            level = {"closed": logging.INFO, "open": logging.WARNING}.get(state, logging.ERROR)
            _log.log(level, "triton_circuit", extra={"model": self._model, "state": state, "reason": reason})


class _Batches(Iterator[Tensors]):
    """Batches of a source; those that were put back come first again."""

    def __init__(self, batches: Iterable[Tensors]) -> None:
        self._source = iter(batches)
        self._back: deque[Tensors] = deque()

    def __next__(self) -> Tensors:
        return self._back.popleft() if self._back else next(self._source)

    def put_back(self, batches: Sequence[Tensors]) -> None:
        """`batches` are the next, in this order."""
        self._back.extendleft(reversed(batches))


def server_for(config: Config, package: Package) -> Triton | None:
    """The server that is to run the model; None where it is to run here."""
    asked = package.pipeline.runtime or config.inference.runtime
    return config.inference.triton if asked == "triton" else None


def remote_model(config: Config, package: Package, graph: OnnxRunner) -> RemoteModel | None:
    """The model on the server, if it is to run there; `graph` is the same model here."""
    settings = server_for(config, package)
    if settings is None:
        return None
    config.storage.path.mkdir(parents=True, exist_ok=True)
    folder = config.storage.path.stat()  # no two appliances on one machine have the same
    reference = graph if graph.name == NAME else OnnxRunner(package.weights, threads=0, cpu_only=True)
    return RemoteModel(settings, package, reference, owner=f"{folder.st_dev:x}-{folder.st_ino:x}")


def _failed_again(circuit: Circuit) -> Circuit:
    return circuit_failed(
        circuit, time.monotonic(), minimum_s=RETRY_S, maximum_s=PROBE_MAXIMUM_S, random=random.random
    )


def _one_image(limits: Limits) -> Limits:
    first = limits.smallest[:1]
    return Limits(*((*first, *shape[1:]) for shape in (limits.smallest, limits.usual, limits.largest)))
