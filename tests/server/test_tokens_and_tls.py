"""Who may call: tokens with scopes, TLS, client certificates."""

import hashlib
import ipaddress
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.server.world import World, erase_request, generate_request, refused, serving
from unsee.v1 import adapters_pb2, cancel_pb2, compose_pb2, erase_pb2, info_pb2, service_pb2, service_pb2_grpc
from unsee_core.pipeline import Pipeline
from unsee_server.auth import SCOPES, Scope, Token, TokensFileError, read_tokens
from unsee_server.settings import Settings

CALLS: dict[str, Any] = {
    "Erase": erase_request(steps=0),
    "ComposeAdapters": compose_pb2.ComposeAdaptersRequest(adapters=["no-cat"]),
    "Generate": generate_request(steps=0),
    "Cancel": cancel_pb2.CancelRequest(),
    "ListAdapters": adapters_pb2.ListAdaptersRequest(page_size=-1),
    "GetAdapter": adapters_pb2.GetAdapterRequest(),
    "DeleteAdapter": adapters_pb2.DeleteAdapterRequest(),
    "DownloadAdapter": adapters_pb2.DownloadAdapterRequest(),
    "ImportAdapter": iter(()),
}


def token(name: str, *scopes: Scope) -> Token:
    """Return the token whose secret is its name."""
    return Token(name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), scopes=frozenset(scopes))


TOKENS = (
    token("erase", "erase"),
    token("generate", "generate"),
    token("adapters.read", "adapters.read"),
    token("adapters.write", "adapters.write"),
    token("admin", "admin"),
    token("nothing"),
)


def test_every_call_says_which_scope_it_needs() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["UnseeService"]
    assert set(SCOPES) == set(service.methods_by_name)


async def test_a_token_opens_the_calls_of_its_scopes_and_no_others(
    tiny_pipeline: Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(tiny_pipeline, tmp_path, tokens=TOKENS) as world:
        for caller in TOKENS:
            metadata = (("authorization", f"Bearer {caller.name}"),)
            for method, request in CALLS.items():
                answer = await refused(getattr(world.stub, method)(request, metadata=metadata))
                is_open = bool(SCOPES[method] & caller.scopes) or "admin" in caller.scopes
                # An open call is refused, too, but for what it asks.
                wanted = grpc.StatusCode.INVALID_ARGUMENT if is_open else grpc.StatusCode.PERMISSION_DENIED
                assert answer.code == wanted, (caller.name, method, answer)
            await world.stub.GetServerInfo(info_pb2.GetServerInfoRequest(), metadata=metadata)
    logged = (caplog.text + "".join(capfd.readouterr())).splitlines()
    assert any("PERMISSION_DENIED" in line and "caller=nothing" in line for line in logged)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer wrong"),),
        (("authorization", "Bearer "),),
        (("authorization", "Basic admin"),),
        (("authorization", f"Bearer {TOKENS[0].sha256}"),),
    ],
)
async def test_without_a_known_token_no_call_is_answered(
    tiny_pipeline: Pipeline, tmp_path: Path, metadata: tuple[tuple[str, str], ...]
) -> None:
    async with serving(tiny_pipeline, tmp_path, tokens=TOKENS) as world:
        answer = await refused(world.stub.GetServerInfo(info_pb2.GetServerInfoRequest(), metadata=metadata))
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


async def test_a_request_id_belongs_to_its_caller(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    tokens = (token("one", "erase"), token("two", "erase"))
    async with serving(tiny_pipeline, tmp_path, tokens=tokens) as world:
        one, two = ((("authorization", f"Bearer {name}"),) for name in ("one", "two"))
        _ = [e async for e in world.stub.Erase(erase_request(request_id="r"), metadata=one)]
        attach = erase_pb2.EraseRequest(request_id="r", attach=True)
        assert (await refused(world.stub.Erase(attach, metadata=two))).code == grpc.StatusCode.NOT_FOUND
        cancel = cancel_pb2.CancelRequest(request_id="r")
        assert (await refused(world.stub.Cancel(cancel, metadata=two))).code == grpc.StatusCode.NOT_FOUND
        assert [e async for e in world.stub.Erase(attach, metadata=one)][-1].HasField("completed")


def test_a_tokens_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps([{"name": "ci", "sha256": "a" * 64, "scopes": ["erase"]}]))
    assert read_tokens(path) == (Token(name="ci", sha256="a" * 64, scopes=frozenset({"erase"})),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "JSON"),
        ("[]", "0 tokens"),
        ('[{"name": "ci", "token": "secret"}]', "0.sha256"),
        ('[{"name": "ci", "sha256": "abc", "scopes": []}]', "0.sha256"),
        (json.dumps([{"name": "ci", "sha256": "a" * 64, "scopes": ["everything"]}]), "0.scopes"),
        (json.dumps([{"name": "ci", "sha256": "a" * 64, "scopes": []}] * 2), "each once"),
    ],
)
def test_a_tokens_file_that_is_none_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(text)
    with pytest.raises(TokensFileError, match=str(path)) as caught:
        read_tokens(path)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_tokens_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokensFileError, match="No such file"):
        read_tokens(tmp_path / "nowhere.json")


class Authority:
    """A certificate authority of a test, and the files that it signs."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = folder / f"{name}.pem"
        signed = self._sign(self._name, self._key, is_authority=True)
        self.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the files of a certificate for 127.0.0.1, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, is_authority=False)
        files = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        return builder.sign(self._key, hashes.SHA256())


async def ask(world: World, credentials: grpc.ChannelCredentials | None) -> info_pb2.GetServerInfoResponse:
    """Return the answer to a call of its own channel."""
    address = f"127.0.0.1:{world.ports.service}"
    channel = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
    async with channel:
        stub = service_pb2_grpc.UnseeServiceStub(channel)
        return await stub.GetServerInfo(info_pb2.GetServerInfoRequest(), timeout=60)


async def test_with_tls_only_callers_who_speak_it_are_answered(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.issue("server")
    settings = {"tls_cert": certificate, "tls_key": key}
    async with serving(tiny_pipeline, tmp_path, **settings) as world:
        assert (await ask(world, grpc.ssl_channel_credentials(authority.certificate.read_bytes()))).version == "1.2.3"
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(world, None)
        stranger = Authority(tmp_path, "stranger")
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(world, grpc.ssl_channel_credentials(stranger.certificate.read_bytes()))


async def test_with_mutual_tls_only_callers_with_a_certificate_are_answered(
    tiny_pipeline: Pipeline, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.issue("server")
    settings = {"tls_cert": certificate, "tls_key": key, "tls_client_ca": authority.certificate}
    root = authority.certificate.read_bytes()
    async with serving(tiny_pipeline, tmp_path, **settings) as world:
        mine, mine_key = authority.issue("me")
        known = grpc.ssl_channel_credentials(root, mine_key.read_bytes(), mine.read_bytes())
        assert (await ask(world, known)).version == "1.2.3"
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(world, grpc.ssl_channel_credentials(root))
        other, other_key = Authority(tmp_path, "stranger").issue("other")
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(world, grpc.ssl_channel_credentials(root, other_key.read_bytes(), other.read_bytes()))


@pytest.mark.parametrize("wrong", ["tls_cert", "tls_key", "tls_client_ca"])
def test_what_is_no_pair_of_certificate_and_key_is_refused_by_name(tmp_path: Path, wrong: str) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.issue("server")
    files = {"tls_cert": certificate, "tls_key": key, "tls_client_ca": authority.certificate}
    assert Settings(model="x", **files).tls_cert == certificate
    stranger_certificate, stranger_key = Authority(tmp_path, "stranger").issue("other")
    other = {"tls_cert": stranger_certificate, "tls_key": stranger_key, "tls_client_ca": key}[wrong]
    named = "tls_client_ca" if wrong == "tls_client_ca" else "tls_cert and tls_key"
    with pytest.raises(ValueError, match=f"{named}: got .*, allowed a PEM"):
        Settings(model="x", **files | {wrong: other})
