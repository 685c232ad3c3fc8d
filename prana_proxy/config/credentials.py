"""What a client shows to proxies that demand it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ProxyCredentials:
    """How a client gets through to proxies; plain data, shipped to every task.

    authority: who signs the proxies' certificates, a PEM file; None: connections are plain
    certificate, key: the client's own, PEM files
    token: one that the proxies know
    """

    authority: str | None = None
    certificate: str | None = None
    key: str | None = None
    token: str | None = field(default=None, repr=False)
