"""A connection to a Triton server, and what the server says of a model.

The protocol is KServe v2 ("Open Inference Protocol") over gRPC; the messages are those of tritonclient, which
is loaded only where a server is configured. Model configuration and shared memory are Triton's extensions.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

from appliance.config.triton import Triton
from appliance.domain.errors import GiveUp, TryAgain
from appliance.runtime.base import Shape, Signature, Unavailable

_QUESTION_S = 5.0
_LONGEST_QUOTE = 200
_UNWATCHED_S = 5.0


class ServerFault(TryAgain):
    """The server failed at a request, or nobody answers. `cause` is the word for it in metrics."""

    def __init__(self, message: str, cause: Literal["unreachable", "deadline", "failed", "answer"]) -> None:
        super().__init__(message)
        self.cause = cause


class AnotherModel(GiveUp):
    """What the server has under the name is not the model of the package."""


@dataclass(frozen=True)
class Client:
    """The libraries that are needed for gRPC and the messages of the protocol."""

    grpc: ModuleType
    messages: ModuleType
    services: ModuleType


def load_client() -> Client:
    """The libraries, loaded at the first call.

    Raises:
        Unavailable: they are not installed.
    """
    # Its own lines on standard error are no JSON; what goes wrong is told by exceptions.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        return Client(
            import_module("grpc"),
            import_module("tritonclient.grpc.service_pb2"),
            import_module("tritonclient.grpc.service_pb2_grpc"),
        )
    except ImportError as error:
        raise Unavailable("the extra `triton` (tritonclient and gRPC) is not installed") from error


def client_installed() -> bool:
    """Whether `load_client` would find them; loads neither."""
    return find_spec("grpc") is not None and find_spec("tritonclient") is not None


@dataclass(frozen=True)
class Served:
    """What the server says of a model. `most` is its largest batch; `version` and `sha256` may be empty."""

    server: str
    name: str
    version: str
    most: int | None
    sha256: str


class Connection:
    """One channel to the server. May be asked from several threads."""

    def __init__(self, settings: Triton) -> None:
        """Nothing is sent before the first question.

        Raises:
            Unavailable: the client is not installed.
            GiveUp: a file of `tls` cannot be read.
        """
        self._client = load_client()
        self._question_s = min(settings.timeout_s, _QUESTION_S)
        self._was_ready = False
        self._lost = False
        self._channel = _channel(self._client.grpc, settings)
        self._channel.subscribe(self._changed)
        self.messages = self._client.messages
        self.service = self._client.services.GRPCInferenceServiceStub(self._channel)

    @property
    def lost(self) -> bool:
        """Whether the connection broke or was closed: whoever is there now may be another server."""
        return self._lost

    def close(self) -> None:
        """Nothing more may be asked, and no answer counts any more. The channel ends a little later."""
        self._lost = True
        self._channel.unsubscribe(self._changed)
        # The library's own thread notices within 0.2 s, and fails if the channel is gone before.
        later = threading.Timer(_UNWATCHED_S, self._channel.close)
        later.daemon = True
        later.start()

    def ask(self, question: Callable[..., Any], request: Any) -> Any:
        """The answer to a short question.

        Raises:
            ServerFault: there is none.
        """
        try:
            return question(request, timeout=self._question_s)
        except self._client.grpc.RpcError as error:
            raise self.fault(error, quote=True) from error

    def fault(self, error: Any, *, quote: bool = False) -> ServerFault:
        """What an error of a request means. `quote` the server's own words only if no image was sent."""
        codes = self._client.grpc.StatusCode
        code = error.code()
        words = f": {str(error.details())[:_LONGEST_QUOTE]}" if quote else ""
        if code is codes.DEADLINE_EXCEEDED:
            return ServerFault("the server did not answer in time", "deadline")
        if code in (codes.UNAVAILABLE, codes.CANCELLED):
            return ServerFault(f"the server cannot be reached{words}", "unreachable")
        return ServerFault(f"the server answered {code.name}{words}", "failed")

    def refused(self, error: Any) -> bool:
        """Whether the server found fault with the request, and not with itself."""
        return bool(error.code() is self._client.grpc.StatusCode.INVALID_ARGUMENT)

    @property
    def failure(self) -> type[BaseException]:
        """What waiting for an answer raises."""
        error: type[BaseException] = self._client.grpc.RpcError
        return error

    def check(self, name: str, version: str) -> None:
        """Ask whether the server and the model are well.

        Raises:
            ServerFault: they are not, or the connection broke meanwhile.
        """
        service, messages = self.service, self.messages
        ready = (
            self.ask(service.ServerLive, messages.ServerLiveRequest()).live
            and self.ask(service.ServerReady, messages.ServerReadyRequest()).ready
            and self.ask(service.ModelReady, messages.ModelReadyRequest(name=name, version=version)).ready
        )
        if not ready:
            raise ServerFault("the server or the model is not ready", "unreachable")
        if self.lost:
            raise ServerFault("the connection was lost", "unreachable")

    def describe(self, name: str, version: str, signature: Signature, sha256: str) -> Served:
        """What the server has under `name`; `version` may be empty, for the highest.

        Raises:
            ServerFault: it cannot say.
            AnotherModel: its tensors are not those of `signature`, or it names another `sha256`.
        """
        service, messages = self.service, self.messages
        server = self.ask(service.ServerMetadata, messages.ServerMetadataRequest())
        if not version:
            all_versions = self.ask(service.ModelMetadata, messages.ModelMetadataRequest(name=name))
            version = max(all_versions.versions, key=_in_order, default="")
        model = self.ask(service.ModelMetadata, messages.ModelMetadataRequest(name=name, version=version))
        _compare("inputs", model.inputs, signature.inputs)
        _compare("outputs", model.outputs, signature.outputs)
        most, named = self._configuration(name, version)
        if named not in ("", sha256):
            raise AnotherModel(f"the server's model says that it is {named}, and the package's is {sha256}")
        return Served(_plain(server.version), name, version, most, named)

    def _configuration(self, name: str, version: str) -> tuple[int | None, str]:
        """The largest batch, and the checksum in the parameter `sha256`, where the server can say."""
        request = self.messages.ModelConfigRequest(name=name, version=version)
        try:
            config = self.service.ModelConfig(request, timeout=self._question_s).config
        except self._client.grpc.RpcError as error:
            if error.code() is self._client.grpc.StatusCode.UNIMPLEMENTED:  # KServe v2 without Triton's part
                return None, ""
            raise self.fault(error, quote=True) from error
        named = config.parameters["sha256"].string_value if "sha256" in config.parameters else ""
        return config.max_batch_size or None, named.strip().lower()

    def _changed(self, state: Any) -> None:
        ready = state is self._client.grpc.ChannelConnectivity.READY
        self._lost = self._lost or (self._was_ready and not ready)
        self._was_ready = self._was_ready or ready


def _channel(grpc: ModuleType, settings: Triton) -> Any:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    target = f"dns:///{host}:{settings.port}"
    # A channel of its own, so that a new one is a new connection; straight to the server, never over a proxy.
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    tls = settings.tls
    if tls is None:
        return grpc.insecure_channel(target, options)
    if tls.name is not None:
        options.append(("grpc.ssl_target_name_override", tls.name))
    try:
        credentials = grpc.ssl_channel_credentials(
            tls.ca.read_bytes(),
            None if tls.key is None else tls.key.read_bytes(),
            None if tls.certificate is None else tls.certificate.read_bytes(),
        )
    except OSError as error:
        raise GiveUp(f"a file of inference.triton.tls cannot be read: {error.strerror}") from error
    return grpc.secure_channel(target, credentials, options)


def _compare(which: str, offered: Any, expected: Mapping[str, Shape]) -> None:
    shapes = {tensor.name: tuple(tensor.shape) for tensor in offered}
    if set(shapes) != set(expected):
        raise AnotherModel(f"the server's model has the {which} {sorted(shapes)}, not {sorted(expected)}")
    for tensor in offered:
        if tensor.datatype != "FP32":
            raise AnotherModel(f"{tensor.name} of the server's model is {tensor.datatype}, not FP32")
        if not agree(shapes[tensor.name], expected[tensor.name]):
            raise AnotherModel(
                f"{tensor.name} of the server's model has the shape {shapes[tensor.name]}, "
                f"not {expected[tensor.name]}"
            )


def agree(shape: Shape, other: Shape) -> bool:
    """Whether there is a tensor that has both shapes; -1 is any size."""
    return len(shape) == len(other) and all(
        -1 in (one, two) or one == two for one, two in zip(shape, other, strict=True)
    )


def _in_order(version: str) -> tuple[int, str]:
    return (int(version), version) if version.isdecimal() else (-1, version)


def _plain(version: str) -> str:
    """A version of somebody else's, fit for a result object."""
    return re.sub(r"[^A-Za-z0-9._+-]", "", version)[:32]
