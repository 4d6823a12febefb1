"""Addresses: the URLs of a broker, taken apart from the secrets in them."""

from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, unquote, urlsplit

from mediator.errors import SettingError
from mediator.nats.credentials import Credentials

_SCHEMES = frozenset({"nats", "tls", "ws", "wss"})
_ENCRYPTED = frozenset({"tls", "wss"})


@dataclass(frozen=True, slots=True)
class Addresses:
    """The URLs of one broker as they were given. The representation does not show them.

    Attributes:
        given: The URLs, possibly with user and password or token.
    """

    given: tuple[str, ...] = field(repr=False)

    @property
    def urls(self) -> list[str]:
        """The URLs without user, password and token."""
        return list(map(redacted, self.given))

    @property
    def encrypted(self) -> bool:
        """Whether a scheme among them is that of an encrypted connection."""
        return any(url.partition("://")[0] in _ENCRYPTED for url in self.given)

    def check(self) -> None:
        """Check that these are URLs of one broker.

        Raises:
            SettingError: They are not. It shows no secret.
        """
        if not self.given:
            raise SettingError("url", [], "give at least one")
        if not all(map(_is_valid, self.given)):
            raise SettingError("url", self.urls, "write it as nats://host:port")
        if len({_split(url).netloc.rpartition("@")[0] for url in self.given}) > 1:
            raise SettingError("url", self.urls, "give all of them the same user and password")

    def complete(self, beside: Credentials) -> Credentials:
        """The credentials beside the URLs, else those in them; a user in the URL may have its password beside it.

        They are decoded as RFC 3986 has it. A user without a password is a token.
        """
        user, separator, password = _split(self.given[0]).netloc.rpartition("@")[0].partition(":")
        if beside.password and not beside.user and user and not separator:
            return replace(beside, user=unquote(user))
        if not user or beside.is_given:
            return beside
        if separator:
            return replace(beside, user=unquote(user), password=unquote(password))
        return replace(beside, token=unquote(user))


def redacted(url: str) -> str:
    """A URL without user, password and token."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url.rpartition("@")[2]


def _split(url: str) -> SplitResult:
    return urlsplit(url if "://" in url else f"nats://{url}")


def _is_valid(url: str) -> bool:
    try:
        parts = _split(url)
        return bool(parts.hostname) and parts.port != 0 and parts.scheme in _SCHEMES
    except ValueError:  # its text may show the password
        return False
