"""A client's credentials for proxies."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ProxyCredentials:
    """Certificates and a token that proxies may require; plain data, sent to every task.

    authority: signs the proxies' certificates, a PEM file; None: connections are plain
    certificate, key: the client's own, PEM files
    token: one of the proxies' tokens
    """

    authority: str | None = None
    certificate: str | None = None
    key: str | None = None
    token: str | None = field(default=None, repr=False)
