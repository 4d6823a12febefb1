"""Credentials: how this application proves to the broker who it is. Files are read again at every connect."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mediator.errors import SettingError

_nkeys: Any
try:
    import nkeys  # type: ignore[import-untyped]  # it has no types

    _nkeys = nkeys
except ModuleNotFoundError:
    _nkeys = None

_JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a client answers to the nonce of a server.

    Attributes:
        public_key: The public nkey.
        sign: Signs a nonce; base64.
        jwt: The user's JWT, `None` when the nkey alone says who it is.
    """

    public_key: str
    sign: Callable[[str], bytes] = field(repr=False)
    jwt: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """One way of proving who this is, or none. Its representation shows no secret.

    Attributes:
        user: The user.
        password: The password of the user.
        token: The token.
        user_credentials: The path of a file with a JWT and the seed of its nkey.
        nkeys_seed: The path of a file with the seed of an nkey.
    """

    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    user_credentials: str | None = None
    nkeys_seed: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether anything says who this is."""
        return any((self.user, self.password, self.token, self.user_credentials, self.nkeys_seed))

    @property
    def secrets(self) -> list[str]:
        """What must not be shown in any text."""
        return [secret for secret in (self.password, self.token) if secret]

    def options(self) -> dict[str, str]:
        """The options of nats-py's `connect` that do not come from files."""
        given = {"user": self.user, "password": self.password, "token": self.token}
        return {name: value for name, value in given.items() if value}

    def check(self) -> None:
        """Check that this is one way, and that its files can be used now.

        Raises:
            SettingError: It is not, or they cannot.
        """
        if bool(self.user) != bool(self.password):
            missing = "password" if self.user else "user"
            raise SettingError(missing, None, "give user and password together")
        if sum(map(bool, (self.user, self.token, self.user_credentials, self.nkeys_seed))) > 1:
            ways = "user and password, token, user_credentials and nkeys_seed"
            raise SettingError("credentials", repr(self), f"choose one of {ways}")
        try:
            self.identity()
        except (OSError, ValueError) as error:
            name = "user_credentials" if self.user_credentials else "nkeys_seed"
            problem = error.strerror if isinstance(error, OSError) else str(error)
            raise SettingError(name, getattr(self, name), problem or type(error).__name__) from None

    def identity(self) -> Identity | None:
        """What the files say now; `None` when the way is another one.

        Raises:
            OSError: A file cannot be read.
            ValueError: Its content is something else. The text does not show it.
        """
        if self.user_credentials:
            text = _text(self.user_credentials)
            jwt, seed = _JWT.search(text), _SEED.search(text)
            if jwt is None or seed is None:
                raise ValueError("it holds no NATS USER JWT with a USER NKEY SEED; create it with `nsc generate creds`")
            return _identity(seed[1], jwt[1].encode())
        if self.nkeys_seed:
            text = _text(self.nkeys_seed)
            seed = _SEED.search(text)
            return _identity(seed[1] if seed else text.strip(), None)
        return None


def _text(path: str) -> str:
    data = Path(path).read_bytes()
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:  # its text would show the content
        raise ValueError("it is not a text") from None


def _identity(seed: str, jwt: bytes | None) -> Identity:
    if _nkeys is None:
        raise ValueError("this needs the package nkeys: pip install 'mediator[nkeys]'")
    try:
        pair = _nkeys.from_seed(bytearray(seed.encode()))
        public_key = pair.public_key.decode()
    except Exception:  # whatever stumbles over it: the text may show the seed
        raise ValueError("it holds no seed of an nkey, such as SU...") from None
    if not public_key.startswith("U"):
        raise ValueError(f"it holds the seed of {public_key[:1]}..., which is no user's: that begins with SU")

    def sign(nonce: str) -> bytes:
        return base64.b64encode(pair.sign(nonce.encode()))

    return Identity(public_key, sign, jwt)
