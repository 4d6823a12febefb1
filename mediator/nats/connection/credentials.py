"""Addresses, credentials and TLS: the URLs of the broker, and how application and broker authenticate to each other.

Each new connection uses the current content of credentials and TLS files. Secrets in URLs are never shown.
"""

import base64
import re
import ssl
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit

from mediator.errors import MissingExtraError, SettingError

_nkeys: Any
try:
    import nkeys  # type: ignore[import-untyped]  # the package has no types

    _nkeys = nkeys
except ModuleNotFoundError:
    _nkeys = None

_JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END")


@dataclass(frozen=True, slots=True)
class Identity:
    """The key of a user, with which the client answers the server's challenge.

    Attributes:
        public_key: The user's public nkey.
        sign: Returns the signature of the server's nonce, in base64.
        jwt: The user's JWT; `None` when the public key alone identifies the user.
    """

    public_key: str
    sign: Callable[[str], bytes] = field(repr=False)
    jwt: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials that the caller of `open_connection` gave, if any. `repr()` shows no secret.

    The attributes are described at `open_connection`.
    """

    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    user_credentials: str | None = None
    nkeys_seed: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether a user, a password, a token or a file is given."""
        return any((self.user, self.password, self.token, self.user_credentials, self.nkeys_seed))

    @property
    def secrets(self) -> list[str]:
        """The password and the token, which must never be shown."""
        return [secret for secret in (self.password, self.token) if secret]

    def options(self) -> dict[str, str]:
        """Return the options of nats-py's `connect` that do not come from files."""
        given = {"user": self.user, "password": self.password, "token": self.token}
        return {name: value for name, value in given.items() if value}

    def check(self) -> None:
        """Raise a `SettingError` when several ways to authenticate are given, or a file cannot be used."""
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
        """Return the identity that the given file holds; `None` when no file is given.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file holds no valid credentials, or `nkeys` is not installed. The error does not show the
                file's content.
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
    if not data.isascii():
        raise ValueError("it is not a text")
    return data.decode("ascii")


def _identity(seed: str, jwt: bytes | None) -> Identity:
    if _nkeys is None:
        raise ValueError(str(MissingExtraError("nkeys", "nkeys")))
    pair, public_key = None, ""
    with suppress(Exception):  # the text of an error could show the seed
        pair = _nkeys.from_seed(bytearray(seed.encode()))
        public_key = pair.public_key.decode()
    if pair is None or not public_key:
        raise ValueError("it holds no seed of an nkey, such as SU...")
    if not public_key.startswith("U"):
        raise ValueError(f"it holds the seed of {public_key[:1]}..., which is not a user; a user's seed begins with SU")

    def sign(nonce: str) -> bytes:
        return base64.b64encode(pair.sign(nonce.encode()))

    return Identity(public_key, sign, jwt)


_SCHEMES = frozenset({"nats", "tls", "ws", "wss"})
_ENCRYPTED = frozenset({"tls", "wss"})


@dataclass(frozen=True, slots=True)
class Addresses:
    """The URLs of one broker. `repr()` does not show the URLs, which may hold secrets.

    Attributes:
        source: The argument `url` of `open_connection`; `None` when an application's setting for the URL is missing.
    """

    source: str | Sequence[str] | None = field(repr=False)

    @property
    def given(self) -> tuple[str, ...]:
        """The URLs, with user, password and token."""
        return (self.source,) if isinstance(self.source, str) else tuple(self.source or ())

    @property
    def urls(self) -> list[str]:
        """The URLs without user, password and token."""
        return list(map(redacted, self.given))

    @property
    def encrypted(self) -> bool:
        """Whether one of the URLs has the scheme `tls` or `wss`."""
        return any(url.partition("://")[0] in _ENCRYPTED for url in self.given)

    def check(self) -> None:
        """Raise a `SettingError` unless the URLs are valid and have equal credentials. The error shows no secret."""
        if not _are_texts(self.source):
            raise SettingError("url", f"a value of the type {type(self.source).__name__}", "give one URL or several")
        if not self.given:
            raise SettingError("url", [], "give at least one")
        if not all(map(_is_valid, self.given)):
            raise SettingError("url", self.urls, "write it as nats://host:port")
        if len({_split(url).netloc.rpartition("@")[0] for url in self.given}) > 1:
            raise SettingError("url", self.urls, "give all URLs the same user and password")

    def complete(self, given: Credentials) -> Credentials:
        """Return the given credentials, or the credentials in the URLs when no credentials are given.

        A password that is given without a user belongs to the user in the URLs. When no credentials are given, `x` in
        `nats://x@host` is a token. Credentials in URLs are percent-decoded (RFC 3986).
        """
        user, separator, password = _split(self.given[0]).netloc.rpartition("@")[0].partition(":")
        if given.password and not given.user and user and not separator:
            return replace(given, user=unquote(user))
        if not user or given.is_given:
            return given
        if separator:
            return replace(given, user=unquote(user), password=unquote(password))
        return replace(given, token=unquote(user))


def redacted(url: str) -> str:
    """Return a URL without user, password and token."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url.rpartition("@")[2]


def _are_texts(source: object) -> bool:
    if source is None or isinstance(source, str):
        return True
    return isinstance(source, list | tuple) and all(isinstance(each, str) for each in cast("Iterable[object]", source))


def _split(url: str) -> SplitResult:
    return urlsplit(url if "://" in url else f"nats://{url}")


def _is_valid(url: str) -> bool:
    try:
        parts = _split(url)
        return bool(parts.hostname) and parts.port != 0 and parts.scheme in _SCHEMES
    except ValueError:  # the error is dropped, because its text may show the password
        return False


@dataclass(slots=True)
class Tls:
    """The options for encrypted connections.

    `given` is the option `tls` of `open_connection`, and the other attributes are the options that begin with `tls_`.
    """

    given: ssl.SSLContext | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)
    hostname: str | None = None
    handshake_first: bool = False
    _context: ssl.SSLContext | None = field(default=None, init=False, repr=False)
    _read: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]], init=False, repr=False)

    @property
    def is_given(self) -> bool:
        """Whether at least one option asks for an encrypted connection."""
        return any((self.given, self.ca, self.certificate, self.key, self.hostname, self.handshake_first))

    def options(self) -> dict[str, str | bool]:
        """Return the options of nats-py's `connect`."""
        named: dict[str, str | bool] = {"tls_hostname": self.hostname} if self.hostname else {}
        return named | {"tls_handshake_first": self.handshake_first}

    def check(self) -> None:
        """Raise a `SettingError` when options contradict each other, or a file cannot be used."""
        if self.given is not None and (self.ca or self.certificate or self.key):
            raise SettingError("tls", self.given, "give a context or files, not both")
        if self.key and not self.certificate:
            raise SettingError("tls_key", self.key, "give tls_certificate with tls_key")
        for name, path in (("tls_ca", self.ca), ("tls_certificate", self.certificate), ("tls_key", self.key)):
            try:
                if path:
                    Path(path).read_bytes()
            except OSError as error:
                raise SettingError(name, path, error.strerror or type(error).__name__) from None
        try:
            if self.ca:
                ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError:
            raise SettingError("tls_ca", self.ca, "it holds no certificates in PEM format") from None
        try:
            self.context()
        except OSError as error:  # for example an SSLError, whose text never shows the file's content
            problem = (
                "certificate and key do not belong together, are not in PEM format, or the key's password is wrong"
            )
            raise SettingError("tls_certificate", self.certificate, f"{problem} ({error})") from None

    def context(self) -> ssl.SSLContext:
        """Return the TLS context for the next connection. Files are read again when they have changed.

        A file that cannot be used raises an `OSError`.
        """
        if self.given is not None:
            return self.given
        read = [_stamp(path) for path in (self.ca, self.certificate, self.key) if path]
        if self._context is None or read != self._read:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.certificate:
                # without this argument, OpenSSL would ask for a password at the terminal and block the process
                context.load_cert_chain(self.certificate, self.key or None, password=self.key_password or "")
            self._context, self._read = context, read
        return self._context


def _stamp(path: str) -> tuple[int, int, int]:
    found = Path(path).stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
