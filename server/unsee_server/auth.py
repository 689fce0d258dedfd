"""Who may do what: bearer tokens, stored as hashes, with scopes."""

import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from unsee_server.calls import Call
from unsee_server.errors import PermissionDeniedError, UnauthenticatedError

Scope = Literal["generate", "erase", "audit", "adapters.read", "adapters.write", "admin"]
ANONYMOUS = "anonymous"
_BEARER = "Bearer "

# What a call needs one of; empty: any token. "admin" may do everything.
SCOPES: Mapping[str, frozenset[Scope]] = {
    "Erase": frozenset({"erase"}),
    "ComposeAdapters": frozenset({"erase"}),
    "AuditAdapter": frozenset({"audit"}),
    "Generate": frozenset({"generate"}),
    "Cancel": frozenset({"audit", "erase", "generate"}),
    "ListAdapters": frozenset({"adapters.read"}),
    "GetAdapter": frozenset({"adapters.read"}),
    "GetReportImages": frozenset({"adapters.read"}),
    "DownloadAdapter": frozenset({"adapters.read"}),
    "DeleteAdapter": frozenset({"adapters.write"}),
    "ImportAdapter": frozenset({"adapters.write"}),
    "GetServerInfo": frozenset(),
}


class Token(BaseModel):
    """A token that the server knows, without the token.

    Attributes:
        name: whose it is; request ids are scoped to it.
        sha256: of the token's UTF-8 bytes, in lower-case hex.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: frozenset[Scope]


class TokensFileError(ValueError):
    """The tokens file cannot be used."""


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Return the tokens of a JSON file: a list of ``{"name": ..., "sha256": ..., "scopes": [...]}``.

    Raises:
        TokensFileError: the file cannot be read, is no such list, is empty, or names one twice.
    """
    try:
        tokens = TypeAdapter(tuple[Token, ...]).validate_json(path.read_bytes())
    except OSError as error:
        raise TokensFileError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TokensFileError(f"{path}: {where or 'file'}: {first['msg']}") from error
    names = [token.name for token in tokens]
    if not names or len(set(names)) < len(names):
        raise TokensFileError(f"{path}: got {len(names)} tokens named {sorted(names)}, allowed one or more, each once")
    return tokens


class Authenticator:
    """Lets calls pass whose token, or client certificate, allows them.

    Args:
        tokens: that are known; without any, everybody may do everything.
    """

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens

    @asynccontextmanager
    async def guard(self, call: Call) -> AsyncIterator[None]:
        """Set the call's caller, or refuse it.

        Raises:
            UnauthenticatedError: no token, or an unknown one.
            PermissionDeniedError: its scopes do not suffice.
        """
        if not self._tokens:
            call.caller = _certificate_name(call) or ANONYMOUS
        else:
            token = self._find(_presented(call))
            call.caller = token.name
            needed = SCOPES[call.method]
            if needed and not token.scopes & (needed | {"admin"}):
                allowed = " or ".join(sorted(needed))
                raise PermissionDeniedError(f"the token {token.name!r} lacks the scope {allowed}")
        yield

    def _find(self, presented: str) -> Token:
        digest = hashlib.sha256(presented.encode()).hexdigest()
        # Every one is compared, so that the time does not tell which came close.
        found = [token for token in self._tokens if hmac.compare_digest(token.sha256, digest)]
        if not found:
            raise UnauthenticatedError("authorization: got an unknown token, allowed one from the tokens file")
        return found[0]


def _presented(call: Call) -> str:
    for key, value in call.context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str) and value.startswith(_BEARER):
            return value.removeprefix(_BEARER)
    raise UnauthenticatedError("authorization: got no token, allowed metadata 'authorization: Bearer TOKEN'")


def _certificate_name(call: Call) -> str:
    names = list(call.context.auth_context().get("x509_common_name", ()))
    return names[0].decode() if names else ""
