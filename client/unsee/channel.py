"""How the server is reached: addresses, credentials, retries, keepalive, sizes."""

import ipaddress
import json
import os
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from unsee.errors import InvalidArgumentError
from unsee.images import read_file

SERVICE = "unsee.v1.UnseeService"
MAX_MESSAGE_BYTES = 64 * 2**20  # the largest picture that a server may send, and the most images of an erasure
_UNARY = ("ListAdapters", "GetAdapter", "DeleteAdapter", "GetServerInfo", "Cancel")
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": SERVICE},
    "methodConfig": [
        {
            "name": [{"service": SERVICE, "method": method} for method in _UNARY],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "3s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
_OPTIONS = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES + 2**20),
]
PathInput = str | os.PathLike[str]


@dataclass(frozen=True)
class Connection:
    """Where the server is and how to talk to it.

    Attributes:
        target: ``host:port``, or what else gRPC resolves (``dns:///name:port``).
        token: bearer token; sent over TLS, or to this machine.
        tls_ca: PEM file of the authorities to trust; giving it switches TLS on.
        tls_cert: PEM file of the client's own certificate, for mutual TLS.
        tls_key: PEM file of its key.
        tls: True: TLS with the system's authorities.
    """

    target: str
    token: str | None = None
    tls_ca: PathInput | None = None
    tls_cert: PathInput | None = None
    tls_key: PathInput | None = None
    tls: bool = False

    def __post_init__(self) -> None:
        if not self.target:
            raise InvalidArgumentError.of("target", "got nothing, allowed host:port")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise InvalidArgumentError.of("token", "got white space or other than ASCII, allowed printable ASCII")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgumentError.of("tls_cert, tls_key", "got one of them, allowed both or none")
        if self.token is not None and not self.is_encrypted and not _is_loopback(self.target):
            message = f"refused over plaintext to {self.target}; allowed: TLS (tls=True or tls_ca), or loopback"
            raise InvalidArgumentError.of("token", message)

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is on."""
        return self.tls or self.tls_ca is not None or self.tls_cert is not None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def open(self) -> grpc.aio.Channel:
        """Return a channel; it connects at the first call.

        Raises:
            InvalidArgumentError: a PEM file cannot be read.
        """
        if not self.is_encrypted:
            return grpc.aio.insecure_channel(self.target, options=_OPTIONS)
        ca, key, cert = (
            None if path is None else _read_pem(Path(path), name)
            for name, path in (("tls_ca", self.tls_ca), ("tls_key", self.tls_key), ("tls_cert", self.tls_cert))
        )
        return grpc.aio.secure_channel(self.target, grpc.ssl_channel_credentials(ca, key, cert), options=_OPTIONS)


def _read_pem(path: Path, field: str) -> bytes:
    data = read_file(path, field)
    if b"-----BEGIN " not in data:  # gRPC would take it, and say that the server is not there
        raise InvalidArgumentError.of(field, f"{path} is no PEM file; allowed one with a -----BEGIN line")
    return data


def _is_loopback(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rsplit("/", 1)[-1].rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
