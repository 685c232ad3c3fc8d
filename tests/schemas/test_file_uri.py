from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.file_uri import file_uri, path_of

NAMES = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/"), min_size=1, max_size=20
).filter(lambda name: name not in (".", ".."))


@given(st.lists(NAMES, min_size=1, max_size=3), st.sampled_from(["file", "sqlite"]))
def test_a_path_with_any_name_in_it_goes_through_a_uri_and_back(names: list[str], scheme: str) -> None:
    path = Path("/", *names)
    uri = file_uri(path, scheme)
    assert path_of(uri, scheme) == path
    assert file_uri(path_of(uri, scheme), scheme) == uri
    assert not set(uri) & set("#?; \\\"'<>")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file:///tmp/C# shop", "contains '#', which ends its path → write %23"),
        ("file:///tmp/what?x=1", "contains '[?]', which ends its path → write %3F"),
        ("file:///tmp/a\nb", "control character"),
        ("file:///tmp/a%00b", "control character"),
        ("file://host/tmp", "expected file:///path"),
        ("file:/tmp/a", "expected file:///path"),
        ("file:///", "expected file:///path"),
        ("sqlite:///tmp/a", "expected file:///path"),
        ("file://me:SECRET@host/tmp", "expected file:///path"),
    ],
)
def test_what_a_uri_cannot_hold_is_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        path_of(uri)
    assert "SECRET" not in str(raised.value)
