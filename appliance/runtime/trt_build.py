"""ONNX to a serialized engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from appliance.domain.errors import GiveUp
from appliance.runtime.base import Profile, Shape
from appliance.runtime.trt_library import Library

BUILDER_REVISION = 1
"""Part of every engine's key: raise it when this module builds something else out of the same inputs."""

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, the step that was done in it, and the number of its steps."""


def build_engine(
    library: Library,
    graph: bytes,
    *,
    profiles: Sequence[Profile],
    targets: Sequence[str],
    memory_bytes: int,
    progress: Progress,
) -> bytes:
    """Build `graph` (an ONNX model in float32) for these profiles; float32 stays float32, without TF32.

    `targets` are compute capabilities for TensorRT-RTX, none of which has to be in this machine; TensorRT
    builds for the GPU that is here, and takes none. `memory_bytes` caps workspace and, in RTX, activations.

    Raises:
        GiveUp: the library refused; the sentence holds what it said.
    """
    module = library.module
    builder = module.Builder(library.logger)
    if builder is None:
        raise GiveUp(f"no builder: {library.messages.take()}")
    network = builder.create_network(library.network_flags)
    parser = module.OnnxParser(network, library.logger)
    if not parser.parse(graph):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise GiveUp(f"the graph cannot be parsed: {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, memory_bytes)
    # TF32 has 10 bits of mantissa: near 1000 HU a step of 0.5 HU. It is on unless it is cleared.
    config.clear_flag(module.BuilderFlag.TF32)
    config.progress_monitor = monitor = _monitor(module, progress)
    _set_targets(library, config, targets)
    for profile in profiles:
        _add_profile(builder, config, network, profile, library)
    plan = builder.build_serialized_network(network, config)
    del monitor
    if plan is None:
        raise GiveUp(f"the engine cannot be built: {library.messages.take()}")
    return bytes(plan)


def _set_targets(library: Library, config: Any, targets: Sequence[str]) -> None:
    if not library.builds_for_absent_gpus:
        if targets:
            raise GiveUp(f"{library.flavour} builds for the GPU in the machine only, not for {targets[0]}")
        return
    if not targets:
        raise GiveUp(f"{library.flavour} has to be told what to build for")
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        if target not in library.targets:
            raise GiveUp(f"{library.flavour} {library.version} does not build for {target}")
        capability = getattr(library.module.ComputeCapability, target)
        if not config.set_compute_capability(capability, index):
            raise GiveUp(f"{target} is refused: {library.messages.take()}")


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile, library: Library) -> None:
    inputs: Mapping[str, Shape] = {
        tensor.name: tuple(tensor.shape) for tensor in map(network.get_input, range(network.num_inputs))
    }
    if set(inputs) != set(profile):
        raise GiveUp(f"the profile names {sorted(profile)}, but the graph has the inputs {sorted(inputs)}")
    made = builder.create_optimization_profile()
    for name, limits in profile.items():
        made.set_shape(name, limits.smallest, limits.usual, limits.largest)
    if config.add_optimization_profile(made) < 0:  # no exception tells of it
        raise GiveUp(f"the profile does not fit the graph: {library.messages.take()}")


def _monitor(module: Any, progress: Progress) -> Any:
    class _Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            self._steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            progress(phase, step + 1, self._steps.get(phase, 0))
            return True

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)

    return _Monitor()
