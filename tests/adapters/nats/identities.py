"""Identities: the keys, JWTs and certificates of tests and their servers."""

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nkeys
import trustme


@dataclass(frozen=True)
class Key:
    """An nkey of a user, an account or an operator."""

    seed: str
    public: str

    @classmethod
    def new(cls, prefix: int = nkeys.PREFIX_BYTE_USER) -> "Key":
        seed = nkeys.encode_seed(os.urandom(32), prefix)
        return cls(seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode())

    def jwt(self, subject: "Key", kind: str, *, expires: float | None = None, **claims: object) -> str:
        """Return a JWT for another key, signed by this key."""
        body = {"iat": int(time.time()), "iss": self.public, "sub": subject.public, "name": kind}
        body |= {"nats": {"type": kind, "version": 2, **claims}}
        if expires is not None:
            body["exp"] = int(time.time() + expires)
        body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
        signed = f"{_encoded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_encoded(body)}"
        signature = nkeys.from_seed(bytearray(self.seed.encode())).sign(signed.encode())
        return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


class Operator:
    """An operator with one account, whose users have JetStream."""

    def __init__(self) -> None:
        self.key = Key.new(nkeys.PREFIX_BYTE_OPERATOR)
        self.account, self.system = Key.new(nkeys.PREFIX_BYTE_ACCOUNT), Key.new(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def settings(self) -> str:
        """Return the settings with which a server trusts the operator."""
        system = self.key.jwt(self.system, "account", limits={"subs": -1, "conn": -1, "data": -1, "payload": -1})
        names = ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage")
        limits = dict.fromkeys((*names, "streams", "consumer"), -1) | {"wildcards": True}
        account = self.key.jwt(self.account, "account", limits=limits)
        return (
            f"operator: {self.key.jwt(self.key, 'operator')}\nresolver: MEMORY\nsystem_account: {self.system.public}\n"
            f"resolver_preload: {{ {self.account.public}: {account}, {self.system.public}: {system} }}"
        )

    def credentials(self, path: Path, *, expires: float | None = None) -> str:
        """Write the credentials file of a new user. Its secrets stand between the lines of dashes."""
        user = Key.new()
        jwt = self.account.jwt(user, "user", expires=expires, subs=-1, data=-1, payload=-1, pub={}, sub={})
        replaced = path.with_suffix(".new")
        replaced.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
        replaced.replace(path)
        return str(path)


class Authority:
    """A certificate authority; its files are in a separate folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._authority = trustme.CA()
        self.path = str(folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.path)

    def issue(self, name: str, host: str = "127.0.0.1", *, expired: bool = False) -> tuple[str, str]:
        """Issue a certificate, and return the paths of the certificate and its key."""
        until = datetime.now(UTC) - timedelta(days=1) if expired else None
        issued = self._authority.issue_cert(host, common_name=host, not_after=until)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        key.write_bytes(issued.private_key_pem.bytes())
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return str(certificate), str(key)

    def settings(self, *, verify: bool = False, expired: bool = False, host: str = "127.0.0.1", more: str = "") -> str:
        """Return the settings with which a server uses the authority."""
        certificate, key = self.issue("server", host, expired=expired)
        return (
            f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{self.path}", '
            f"verify: {str(verify).lower()}, {more} }}"
        )
