from __future__ import annotations

import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from snapshotter.index import open_index
from snapshotter.index.cassandra.address import CassandraAddress, CassandraCredentials, read_address


def test_a_uri_names_hosts_and_a_keyspace() -> None:
    assert read_address("cassandra://one,two:9043,[::1]:9044/snapshots") == CassandraAddress(
        (("one", 9042), ("two", 9043), ("::1", 9044)), "snapshots"
    )


def test_options_say_the_rest() -> None:
    assert read_address(
        "cassandra://one/snapshots?index=shop&datacenter=dc1&consistency=QUORUM&serial_consistency=LOCAL_SERIAL"
        "&timeout_seconds=2.5&patience_seconds=60&authority=/ca.pem&certificate=/c.pem&key=/k.pem&check_hostname=false"
    ) == CassandraAddress(
        (("one", 9042),),
        "snapshots",
        "shop",
        None,
        "dc1",
        "QUORUM",
        "LOCAL_SERIAL",
        2.5,
        60.0,
        "/ca.pem",
        "/c.pem",
        "/k.pem",
        check_hostname=False,
    )


def test_credentials_come_from_a_file_that_need_not_be_in_the_project(tmp_path: Path) -> None:
    file = tmp_path / "cassandra.toml"
    file.write_text('user = "delorean"\npassword = "p@ss/w:rd"\n')
    address = read_address(f"cassandra://one/snapshots?credentials={file}")
    assert address.credentials == CassandraCredentials("delorean", "p@ss/w:rd")
    with pytest.raises(ConfigError, match="has both credentials and a credentials file"):
        read_address(f"cassandra://a:b@one/snapshots?credentials={file}")
    file.write_text('username = "x"\npassword = "secret"\n')
    with pytest.raises(ConfigError, match=f"{file}, line 1: .*unknown field 'username' → did you mean 'user'"):
        read_address(f"cassandra://one/snapshots?credentials={file}")


@given(user=st.text(min_size=1), password=st.text())
def test_any_credentials_may_be_in_the_uri_and_are_never_shown(user: str, password: str) -> None:
    try:
        quoted = f"{quote(user, safe='')}:{quote(password, safe='')}"
    except UnicodeEncodeError:  # half a surrogate pair is no text
        return
    address = read_address(f"cassandra://{quoted}@one:1,two/snapshots?index=shop&timeout_seconds=1")
    assert address.credentials == CassandraCredentials(user, password)
    assert address.uri == "cassandra://one:1,two/snapshots?index=shop"
    assert f"password={password!r}" not in repr(address)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("cassandra:///snapshots", "names no host → write cassandra://host,host/keyspace"),
        ("cassandra://one,,two/snapshots", "names no host"),
        ("cassandra://one", "keyspace is ''"),
        ("cassandra://one/Snapshots", "keyspace is 'Snapshots', expected lower-case letters, digits and _"),
        ("cassandra://one/a/b", "keyspace is 'a/b'"),
        ("cassandra://one/a;DROP", "keyspace is 'a;DROP'"),
        ("cassandra://one:port/k", "Port could not be cast to integer"),
        ("cassandra://one/k?indx=a", "unknown option 'indx' → did you mean 'index'"),
        ("cassandra://one/k?index=a'", "index is 'a'', expected lower-case letters"),
        ("cassandra://one/k?index=a&index=b", "has an option twice"),
        ("cassandra://one/k?consistency=ONE", "unknown consistency 'ONE' → known: LOCAL_QUORUM, QUORUM"),
        ("cassandra://one/k?serial_consistency=QUORUM", "unknown serial_consistency 'QUORUM'"),
        ("cassandra://one/k?timeout_seconds=soon", "timeout_seconds is 'soon', expected seconds"),
        ("cassandra://one/k?patience_seconds=0", "patience_seconds is '0', expected seconds"),
        ("cassandra://one/k?timeout_seconds=nan", "timeout_seconds is 'nan'"),
        ("cassandra://one/k?authority=ca.pem", "authority is 'ca.pem' → write an absolute path"),
        ("cassandra://one/k?authority=/a&key=/k", "one of certificate and key"),
        ("cassandra://one/k?certificate=/c&key=/k", "has no authority, so connections are not encrypted"),
        ("cassandra://one/k?authority=/a&check_hostname=no", "check_hostname is 'no', expected true or false"),
        ("cassandra://one/k?credentials=/no/such/file", "/no/such/file"),
        ("cassandra://one/k#a", "has a '#'"),
    ],
)
def test_what_is_wrong_with_a_uri_is_said_before_anybody_is_asked(uri: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_index(uri)
    assert problem in str(refused.value)
    assert str(refused.value).startswith(f"index URI '{uri}': ")


@pytest.mark.parametrize(
    "uri",
    [
        "cassandra://me:ALL/MINE@one/k",
        "cassandra://me:ALL#MINE@one/k",
        "cassandra://me:ALL?MINE@one/k",
        "cassandra://me:ALL@MINE@one/K",
        "cassandra://me:ALL[MINE@one/k",
        "cassandra://me:ALL\nMINE@one/K",
        "cassandra://me:ALLMINE@one/k?index=A",
        "casandra://me:ALLMINE@one/k",
    ],
)
def test_credentials_that_break_a_uri_are_not_shown_either(uri: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_index(uri)
    reported = "".join(traceback.format_exception_only(refused.value))
    assert "ALL" not in reported
    assert "MINE" not in reported
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
