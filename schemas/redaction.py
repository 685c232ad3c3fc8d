"""Which parts of settings and URLs are secret, and how they are hidden wherever they are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping

HIDDEN = "…"
SENSITIVE = (  # a regular expression with the same meaning in Java
    "(?i)secret|passw|pwd|token|credential|private|signature"
    "|(?:account|access|api|auth|encryption|sas|shared)[._-]?key|keytab"
    "|(?:^|[._-])(?:key|sas|auth)(?:$|[._-])"
)
_SECRET_NAME = re.compile(SENSITIVE)
_PUBLIC_NAME = re.compile(  # at the end, or before an Azure account
    r"[._-](?:provider|class|type|enabled|length|interval)(?:\.[\w-]+\.(?:dfs|blob)\.[\w.-]+)?$"
)
_USER = re.compile(r"//[^/?#\s]*@")
_UP_TO_AT = re.compile(r"(?<=//)\S*@")  # greedy, because an unencoded password may contain any character
_PARAMETER = re.compile(r"(?:^|(?<=[?&;\s]))([^=&;\s?]+)=([^&;\s]+)")


def is_secret(name: str) -> bool:
    """Whether a setting's value is secret, judged by its name: passwords, tokens, account keys and the like.

    >>> is_secret("spark.hadoop.fs.azure.account.key.shop.dfs.core.windows.net"), is_secret("spark.driver.memory")
    (True, False)
    """
    spelled = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", ".", name)
    return bool(_SECRET_NAME.search(spelled)) and not _PUBLIC_NAME.search(spelled.lower())


def without_password(text: str) -> str:
    """Give a text without the users, passwords and secret parameters of the URLs in it.

    >>> without_password("cannot reach https://shop:pa@ss@proxy:8080/x?sig=aGk&page=1")
    'cannot reach https://…@proxy:8080/x?sig=…&page=1'
    """
    text = _UP_TO_AT.sub(f"{HIDDEN}@", text)
    return _PARAMETER.sub(
        lambda match: f"{match[1]}={HIDDEN}" if is_secret(match[1]) or match[1].lower() == "sig" else match[0], text
    )


def has_password(url: str) -> bool:
    """Whether a URL contains a user, and possibly a password, before its host."""
    return bool(_USER.search(url))


def is_secret_setting(name: str, value: str) -> bool:
    """Whether a setting is secret by its name, or contains a password in its value."""
    return shown_setting(name, value) != value


def shown_setting(name: str, value: str) -> str:
    """Give a setting's value with secrets hidden."""
    return HIDDEN if is_secret(name) else without_password(value)


def shown_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Give settings with secrets hidden."""
    return {name: shown_setting(name, value) for name, value in settings.items()}
