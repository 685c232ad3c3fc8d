"""What a proxy shows to clients, and demands of them: certificates and tokens."""

from __future__ import annotations

import hashlib
import hmac
import logging
import ssl
from pathlib import Path

from prana_proxy.config.server_settings import TlsConfig
from prana_proxy.events import log_event
from schemas.errors import ConfigError

_log = logging.getLogger(__name__)


def server_context(config: TlsConfig) -> ssl.SSLContext:
    """Open what TLS needs. Raises ConfigError for files that do not hold it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.certificate, config.key, password="")  # or OpenSSL would ask the terminal
    except (OSError, ssl.SSLError) as error:
        problem = f"server.tls: {config.certificate} and {config.key} are no PEM certificate and its key"
        raise ConfigError.because(problem, "write both without a password") from error
    if config.client_authority is not None:
        try:
            context.load_verify_locations(config.client_authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError.because(f"server.tls: {config.client_authority} holds no PEM certificates") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class AuthTokens:
    """The tokens that a file names, one a line; the file is read again when it changes.

    Raises ConfigError when it cannot be read or holds none.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._stamp: tuple[int, int, int] | None = None
        self._digests: tuple[bytes, ...] = ()
        self._read()

    def know(self, token: str) -> bool:
        """Say whether a token is one of them, in a time that tells nothing of how nearly it is."""
        try:
            self._read()
        except ConfigError as error:  # who was let in stays in
            log_event(_log, logging.ERROR, "tokens_unreadable", reason=str(error))
        digest = _digest(token)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0

    def _read(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError.because(f"tokens_file {self._path} cannot be read: {_reason(error)}") from error
        digests = tuple(_digest(line.strip()) for line in lines if line.strip())
        if not digests:
            raise ConfigError.because(f"tokens_file {self._path} holds no token", "write one a line")
        self._digests, self._stamp = digests, stamp


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "it is not UTF-8"
