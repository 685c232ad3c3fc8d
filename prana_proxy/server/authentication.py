"""A proxy's certificate, and the certificates and tokens that it requires of clients."""

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
    """Load a TLS configuration. Raises ConfigError for files that are not certificates or keys."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.certificate, config.key, password="")  # or OpenSSL would ask the terminal
    except (OSError, ssl.SSLError) as error:
        problem = f"server.tls: {config.certificate} and {config.key} are not a PEM certificate and its key"
        raise ConfigError.because(problem, "use files without a password") from error
    if config.client_authority is not None:
        try:
            context.load_verify_locations(config.client_authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError.because(f"server.tls: {config.client_authority} contains no PEM certificates") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class AuthTokens:
    """The tokens in a file, one per line; the file is read again when it changes.

    Raises ConfigError when it cannot be read or contains none.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._stamp: tuple[int, int, int] | None = None
        self._digests: tuple[bytes, ...] = ()
        self._read()

    def accepts(self, token: str) -> bool:
        """Whether a token is one of them, in a time that does not depend on how much of it is right."""
        try:
            self._read()
        except ConfigError as error:  # the tokens read last stay valid
            log_event(_log, logging.ERROR, "tokens_unreadable", reason=str(error))
        digest = _digest(token)
        return sum(hmac.compare_digest(digest, digest_of_file) for digest_of_file in self._digests) > 0

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
            raise ConfigError.because(f"tokens_file {self._path} contains no token", "write one per line")
        self._digests, self._stamp = digests, stamp


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "it is not UTF-8"
