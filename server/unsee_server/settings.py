"""Every setting of the server: a flag, and an environment variable ``UNSEE_...`` of the same name."""

import ipaddress
import ssl
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from unsee_core.job import MAX_IMAGES, Limits
from unsee_server.auth import Token, TokensFileError, read_tokens
from unsee_server.logs import Level

MIB = 2**20
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """Serve a resident Stable Diffusion 2 that can unsee concepts, over gRPC.

    Each setting is also read from the environment: --max-queue from UNSEE_MAX_QUEUE. Flags win.
    """

    model_config = SettingsConfigDict(
        env_prefix="UNSEE_",
        cli_prog_name="unsee-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        extra="forbid",
    )

    model: str = Field(description="folder, hub name or .safetensors file of the model")
    variant: Literal["768-v", "2-base", "2.1", "2.1-base"] | None = Field(
        None, description="which SD 2 a single .safetensors file holds; required for one"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="number format of the U-Net; auto: float16 on a GPU, else float32"
    )
    guidance_scale: float | None = Field(
        None, ge=0, le=50, description="guidance of a Generate that names none; otherwise the model's own"
    )
    detector: Path | None = Field(
        None,
        description="folder of a CLIPModel whose score of a named concept the method reward minimises; not set: the "
        "model itself detects",
    )
    store: str = Field("unsee-store", description="where adapters are kept: a folder, or a URL that fsspec knows")
    cache: Path = Field(
        Path("~/.cache/unsee"), description="folder for what is computed once for a model; it may be emptied"
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(50051, description="port of the service; 0: any that is free")
    health_port: Port | None = Field(None, description="plaintext port for health checks alone; 0: any; not set: none")
    metrics_port: Port | None = Field(None, description="HTTP port for Prometheus; 0: any; not set: none")

    tls_cert: Path | None = Field(None, description="PEM file of the server's certificate chain")
    tls_key: Path | None = Field(None, description="PEM file of its key")
    tls_client_ca: Path | None = Field(None, description="PEM file; callers must show a certificate that it signed")
    tokens_file: Path | None = Field(
        None, description='JSON list of {"name": ..., "sha256": ..., "scopes": [...]}; callers must show such a token'
    )
    insecure_no_auth: bool = Field(False, description="listen beyond this machine though anybody may call")

    grace: float = Field(30, ge=0, le=3600, description="seconds that running requests have after SIGTERM")
    request_ttl: float = Field(86400, ge=0, description="seconds that results are kept for their request ids")
    reattach_window: float = Field(
        30, ge=0, le=3600, description="seconds that a request with an id of the caller's own outlives its last stream"
    )
    result_bytes: int = Field(256 * MIB, ge=0, description="bytes of images that kept results may hold in memory")
    max_connection_age: float = Field(
        3600, gt=0, description="seconds until a connection is asked to come anew, and finds new servers"
    )

    max_queue: int = Field(64, ge=1, le=10_000, description="requests that may wait for the device")
    max_batch: int = Field(16, ge=1, le=1024, description="images of a denoising step")
    max_erase_images: int = Field(MAX_IMAGES, ge=1, le=MAX_IMAGES, description="images of an Erase")
    max_image_bytes: int = Field(4 * MIB, ge=1, le=64 * MIB, description="bytes of one image of an Erase")
    max_image_pixels: int = Field(16 * MIB, ge=1, description="pixels of one image of an Erase")
    max_num_images: int = Field(MAX_IMAGES, ge=1, le=MAX_IMAGES, description="images of a Generate")
    max_size: int = Field(1024, ge=8, le=8192, description="width or height of a generated image, in pixels")
    max_steps: int = Field(200, ge=1, le=200, description="denoising steps of a Generate")
    max_adapter_bytes: int = Field(64 * MIB, ge=1, le=2**30, description="bytes of an imported adapter")

    log_level: Level = Field("info", description="least severity that is logged")

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key: got one of them, allowed both or none")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: got one without tls_cert, allowed with tls_cert and tls_key")
        if self.detector is not None and not self.detector.is_dir():
            raise ValueError(f"detector: got {self.detector}, allowed a folder that exists")
        for name in ("tls_cert", "tls_key", "tls_client_ca"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{name}: got {path}, allowed a file that exists")
        if self.tls_cert is not None and self.tls_key is not None:
            _check_tls(self.tls_cert, self.tls_key, self.tls_client_ca)
        has_auth = self.tokens_file is not None or self.tls_client_ca is not None
        if not (_is_loopback(self.host) or has_auth or self.insecure_no_auth):
            raise ValueError(
                f"host: got {self.host}, which others reach, without tokens_file or tls_client_ca; "
                "allowed with one of them, or with insecure_no_auth"
            )
        return self

    @property
    def limits(self) -> Limits:
        """What a request may ask for."""
        return Limits(**{name: getattr(self, name) for name in Limits.__dataclass_fields__})

    @property
    def max_message_bytes(self) -> int:
        """Bytes of one message: an Erase with all its images, and its text."""
        return self.max_erase_images * self.max_image_bytes + MIB


def read_settings(arguments: list[str]) -> tuple[Settings, tuple[Token, ...]]:
    """Return the settings of flags and environment, and the tokens of the tokens file.

    Raises:
        SystemExit: with 2 after one readable line for each setting that is not allowed; with 0 after ``--help``.
    """
    try:
        settings = Settings(_cli_parse_args=arguments)  # type: ignore[call-arg]
        tokens = read_tokens(settings.tokens_file) if settings.tokens_file else ()
    except ValidationError as error:
        _refuse([_line(problem["loc"], problem["msg"], problem.get("input")) for problem in error.errors()])
    except TokensFileError as error:
        _refuse([f"tokens_file: {error}"])
    return settings, tokens


def _refuse(lines: list[str]) -> None:
    for line in lines:
        sys.stderr.write(f"unsee-server: {line}\n")
    raise SystemExit(2)


def _line(where: tuple[int | str, ...], message: str, value: object) -> str:
    name = ".".join(str(part) for part in where)
    if not name:
        return message.removeprefix("Value error, ")
    flag = f"--{name.replace('_', '-')} or UNSEE_{name.upper()}"
    if message == "Field required":
        return f"{name}: got nothing, allowed {Settings.model_fields[name].description}; set {flag}"
    return f"{name}: got {value!r}; {message[0].lower()}{message[1:]}; set {flag}"


def _check_tls(certificate: Path, key: Path, client_ca: Path | None) -> None:
    """Raise ValueError unless these are a certificate chain, its key without a passphrase, and certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")  # none: it would be asked for otherwise
    except (ssl.SSLError, OSError) as error:
        allowed = "allowed a PEM certificate chain and its own key, without a passphrase"
        raise ValueError(f"tls_cert and tls_key: got {certificate} and {key}, {allowed}") from error
    try:
        if client_ca is not None:
            context.load_verify_locations(client_ca)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"tls_client_ca: got {client_ca}, allowed a PEM file of certificates") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
