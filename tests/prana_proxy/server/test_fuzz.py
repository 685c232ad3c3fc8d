"""A short fuzzing; `make bench CHECK=fuzz` does it at length."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from hypothesis import example, given
from hypothesis import strategies as st
from thrift_bytes import call_of

from benchmarks.fuzz import Witness, attack, running_proxy
from benchmarks.fuzz_cases import DEEPEST, KINDS, cases
from prana_proxy.server.frames import MalformedError
from prana_proxy.server.messages import Message


def test_a_proxy_survives_what_is_malformed_and_serves_others_rightly(tmp_path: Path) -> None:
    with running_proxy(tmp_path) as (address, proxy):
        witness = Witness(address)
        witness.start()
        outcomes, _, _ = attack(address, proxy, 1_500, seed=7)
        witness.stop()
        assert proxy.status() != psutil.STATUS_ZOMBIE
    assert outcomes.total == 1_500
    assert outcomes.hung == []
    assert witness.wrong == []
    assert witness.answers > 0


def test_every_kind_of_case_is_made_and_cases_are_the_same_for_a_seed() -> None:
    first = list(islice(cases(5), 300))
    assert {case.kind for case in first} == set(KINDS)
    assert [case.data for case in first] == [case.data for case in islice(cases(5), 300)]
    assert any(len(case.data) > DEEPEST for case in first if case.kind == "deeply nested")


@given(st.binary(max_size=200))
@example(call_of("services")[4:])
@example(b"\x80\x01\x00\x01")
@example(b"\x80\x01\x00\x01\x7f\xff\xff\xff")
@example(b"\x80\x01\x00\x01\x00\x00\x00\x01\xff\x00\x00\x00\x01")
def test_any_frame_is_a_call_or_malformed(frame: bytes) -> None:
    with suppress(MalformedError):
        Message.read(frame)
        assert frame.startswith(b"\x80\x01")


@given(st.sampled_from(["fetch", "services", "authenticate"]), st.binary(max_size=200), st.data())
def test_any_arguments_are_read_or_malformed(name: str, noise: bytes, data: Any) -> None:
    head = b"\x80\x01\x00\x01" + len(name).to_bytes(4) + name.encode() + bytes(4)
    start = data.draw(st.sampled_from([b"", b"\x0c\x00\x01", b"\x0b\x00\x01\x00\x00\x00\x01"]))
    with suppress(MalformedError):
        assert Message.read(head + start + noise).arguments() is not None
