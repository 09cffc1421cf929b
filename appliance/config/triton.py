"""Settings of a Triton server that runs models for several appliances."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from pydantic import Field, model_validator

from appliance.config.section import Section
from appliance.config.tls import DestinationTLS
from appliance.config.values import Host, Port


class TritonModel(Section):
    """Under which name and version the server has a model."""

    name: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        default=None, description="Name of the model on the server. Left out: the id of the model package."
    )
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")] | None = Field(
        default=None, description="Version of the model on the server. Left out: the highest that it has."
    )


class Triton(Section):
    """A Triton server, or another that speaks KServe v2 over gRPC with binary tensors."""

    host: Host = Field(description="Host name or address of the server.")
    port: Port = Field(default=8001, description="TCP port of its gRPC service.")
    tls: DestinationTLS | None = Field(default=None, description="TLS to the server. Left out: no TLS.")
    models: dict[str, TritonModel] = Field(
        default={}, description="Models that the server has under another name than the package's id, by id."
    )
    timeout_s: Annotated[float, Field(ge=0.1, le=60.0)] = Field(
        default=10.0,
        description="Seconds that the server may take for one batch, waiting included; then ONNX Runtime "
        "runs it here.",
    )
    shared_memory: bool = Field(
        default=False,
        description="Hand images over in shared memory instead of sending them. The server has to run on "
        "this machine, see the same `/dev/shm`, and may read files of the appliance's user.",
    )

    @model_validator(mode="after")
    def _shares_memory_only_here(self) -> Triton:
        if self.shared_memory and not _is_this_machine(self.host):
            raise ValueError(f"shared_memory needs a server on this machine, and {self.host!r} is another")
        return self


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
