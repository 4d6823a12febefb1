"""Tls: the encryption of a connection. Its files are read again when they have changed."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from mediator.errors import SettingError


@dataclass(slots=True)
class Tls:
    """How the broker proves who it is, and this application with a certificate of its own.

    Attributes:
        given: A context that is used as it is.
        ca: The path of the certificates of the authorities that are trusted; without it, those that the system trusts.
        certificate: The path of this application's certificate, with those in between.
        key: The path of its private key; it may be in the file of the certificate.
        key_password: The password of the key.
        hostname: The name in the server's certificate, when it is not that in the URL.
        handshake_first: Whether the server expects TLS before it says anything (`handshake_first` in its settings).
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
        """Whether anything says that the connection is to be encrypted."""
        return any((self.given, self.ca, self.certificate, self.key, self.hostname, self.handshake_first))

    def options(self) -> dict[str, str | bool]:
        """The options of nats-py's `connect`."""
        named: dict[str, str | bool] = {"tls_hostname": self.hostname} if self.hostname else {}
        return named | {"tls_handshake_first": self.handshake_first}

    def check(self) -> None:
        """Check that the files can be used now.

        Raises:
            SettingError: They cannot.
        """
        if self.given is not None and (self.ca or self.certificate or self.key):
            raise SettingError("tls", self.given, "give a context or files, not both")
        if self.key and not self.certificate:
            raise SettingError("tls_key", self.key, "give tls_certificate too")
        for name, path in (("tls_ca", self.ca), ("tls_certificate", self.certificate), ("tls_key", self.key)):
            try:
                if path:
                    Path(path).read_bytes()
            except OSError as error:
                raise SettingError(name, path, error.strerror or type(error).__name__) from None
        self._check_content()

    def context(self) -> ssl.SSLContext:
        """The context for the next connection.

        Raises:
            OSError: A file cannot be read, or is not what it should be.
        """
        if self.given is not None:
            return self.given
        read = [_stamp(path) for path in (self.ca, self.certificate, self.key) if path]
        if self._context is None or read != self._read:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key or None, password=self._password)
            self._context, self._read = context, read
        return self._context

    def _password(self) -> str:
        """Without one OpenSSL would ask at the terminal, and stop everything until somebody answers."""
        return self.key_password or ""

    def _check_content(self) -> None:
        try:
            if self.ca:
                ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError:
            raise SettingError("tls_ca", self.ca, "it holds no certificates in PEM format") from None
        try:
            self.context()
        except OSError as error:  # SSLError is one; its text names the cause, never the content
            problem = (
                "certificate and key do not belong together, are not in PEM format, or the key's password is wrong"
            )
            raise SettingError("tls_certificate", self.certificate, f"{problem} ({error})") from None


def _stamp(path: str) -> tuple[int, int, int]:
    found = Path(path).stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
