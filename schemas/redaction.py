"""The one rule for what is secret in settings and URLs, wherever they are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping

HIDDEN = "…"
SENSITIVE = (  # a regular expression that Java reads alike
    "(?i)secret|passw|pwd|token|credential|private|signature"
    "|(?:account|access|api|auth|encryption|sas|shared)[._-]?key|keytab"
    "|(?:^|[._-])(?:key|sas|auth)(?:$|[._-])"
)
_SECRET_NAME = re.compile(SENSITIVE)
_PUBLIC_NAME = re.compile(  # at the end, or before an account of Azure
    r"[._-](?:provider|class|type|enabled|length|interval)(?:\.[\w-]+\.(?:dfs|blob)\.[\w.-]+)?$"
)
_USER = re.compile(r"//[^/?#\s]*@")
_UP_TO_AT = re.compile(r"(?<=//)\S*@")  # rather too much: a password that was not encoded may hold any letter
_PARAMETER = re.compile(r"(?:^|(?<=[?&;\s]))([^=&;\s?]+)=([^&;\s]+)")


def is_secret(name: str) -> bool:
    """Whether a setting's value is secret, by its name: passwords, tokens, keys of accounts and the like.

    >>> is_secret("spark.hadoop.fs.azure.account.key.shop.dfs.core.windows.net"), is_secret("spark.driver.memory")
    (True, False)
    """
    spelled = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", ".", name)
    return bool(_SECRET_NAME.search(spelled)) and not _PUBLIC_NAME.search(spelled.lower())


def without_password(text: str) -> str:
    """Give a text with what URLs in it say of users and passwords left out.

    >>> without_password("cannot reach https://shop:pa@ss@proxy:8080/x?sig=aGk&page=1")
    'cannot reach https://…@proxy:8080/x?sig=…&page=1'
    """
    text = _UP_TO_AT.sub(f"{HIDDEN}@", text)
    return _PARAMETER.sub(
        lambda found: f"{found[1]}={HIDDEN}" if is_secret(found[1]) or found[1].lower() == "sig" else found[0], text
    )


def has_password(url: str) -> bool:
    """Whether a URL names a user, and maybe a password, before its host."""
    return bool(_USER.search(url))


def is_secret_setting(name: str, value: str) -> bool:
    """Whether a setting is secret, by its name or because a password stands in its value."""
    return shown_setting(name, value) != value


def shown_setting(name: str, value: str) -> str:
    """Give a setting's value as it may be shown."""
    return HIDDEN if is_secret(name) else without_password(value)


def shown_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Give settings as they may be shown."""
    return {name: shown_setting(name, value) for name, value in settings.items()}
