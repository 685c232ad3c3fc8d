"""Malformed answers are refused, whatever their bytes: nothing is raised, and nothing takes long."""

from __future__ import annotations

import contextlib
import random
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thrift.Thrift import TMessageType, TType
from thrift_service import IDL, Writer, write_fields, write_list, written

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway.services.thrift.binary_protocol import UnfitError, end_of_message, skip
from prana_proxy.gateway.services.thrift.idl import method_of
from prana_proxy.gateway.services.thrift.reply_decoder import ReplyDecoder
from schemas.services import Status

MALFORMED = 20_000
TYPE = "list<struct<video_id: int64, minutes: double, title: string, kind: int8>>"
KEYS = [{"behaviour": "a"}, {"behaviour": "b"}]


def views(to: Writer, count: int) -> None:
    def view(i: int) -> None:
        write_fields(
            to,
            (1, TType.I64, partial(to.writeI64, i)),
            (2, TType.DOUBLE, partial(to.writeDouble, i / 3)),
            *([] if count > 9 else [(3, TType.STRING, partial(to.writeString, "ab" * i))]),
            (9, TType.LIST, partial(write_list, to, TType.STRING, ["more"], to.writeString)),
            (8, TType.SET, partial(write_list, to, TType.I64, [1, 2, 3], to.writeI64)),
            (4, TType.I32, partial(to.writeI32, i % 3)),
        )

    write_list(to, TType.STRUCT, list(range(count)), view)


def message(content: Any) -> bytes:
    return written(lambda to: to.writeMessageBegin("x", TMessageType.REPLY, 1)) + written(content)


def answer(to: Writer, count: int) -> None:
    write_fields(to, (1, TType.LIST, partial(views, to, count)))


def single(to: Writer) -> None:
    write_fields(to, (0, TType.STRUCT, partial(answer, to, 12)))


def batch(to: Writer) -> None:
    write_fields(to, (0, TType.LIST, partial(write_list, to, TType.STRUCT, [2, 20], partial(answer, to))))


def by_key(to: Writer) -> None:
    def entries() -> None:
        to.writeMapBegin(TType.STRING, TType.LIST, 2)
        for key in ("a", "b"):
            to.writeString(key)
            views(to, 3)

    write_fields(to, (0, TType.MAP, entries))


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ReplyDecoder, bytes]]:
    path: Path = tmp_path_factory.mktemp("idl") / "history.thrift"
    path.write_text(IDL)
    made = {}
    for method, content, kind in (
        ("get_history", single, "url"),
        ("get_many", batch, "batch_url"),
        ("get_map", by_key, "batch_url"),
    ):
        table = {
            "type": TYPE,
            "key": {"behaviour": "string"},
            kind: f"thrift://host/History/{method}",
            "idl": str(path),
            "answer": "" if method == "get_map" else "/history",
        }
        config = gateway_config({"services": {"views": table}}).services[0]
        made[method] = ReplyDecoder(method_of(str(path), "History", method), config), message(content)
    return made


def decode(decoder: ReplyDecoder, method: str, data: bytes) -> list[Any]:
    return [decoder.decode(data, 0)] if method == "get_history" else [*decoder.decode_batch(data, KEYS, 0)]


@pytest.mark.parametrize("method", ["get_history", "get_many", "get_map"])
@pytest.mark.timeout(120)
def test_a_malformed_answer_is_invalid_or_another_answer(
    decoders: dict[str, tuple[ReplyDecoder, bytes]], method: str
) -> None:
    decoder, good = decoders[method]
    assert {reply.status for reply in decode(decoder, method, good)} == {Status.OK}
    seed = random.Random(7)
    refused = 0
    for _ in range(MALFORMED // 3):
        replies = decode(decoder, method, malformed(good, seed))
        assert all(reply.status in (Status.OK, Status.INVALID, Status.ERROR) for reply in replies)
        refused += any(reply.status is not Status.OK for reply in replies)
    assert refused > MALFORMED / 6  # most were malformed indeed


def malformed(good: bytes, seed: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(seed.randint(1, 4)):
        at = seed.randrange(len(data))
        match seed.randrange(4):
            case 0:
                data[at] = seed.randrange(256)
            case 1:
                data[at : at + 4] = struct.pack(">i", seed.choice([-1, 0, 1, 255, 1 << 20, 2**31 - 1, -(2**31)]))
            case 2:
                del data[at : at + seed.randint(1, 9)]
            case 3:
                data[at:at] = seed.randbytes(seed.randint(1, 9))
        if not data:
            break
    return bytes(data)


@given(st.binary(max_size=200), st.sampled_from([*range(20), 99]))
def test_passing_over_any_bytes_ends_within_them_or_is_refused(data: bytes, code: int) -> None:
    with contextlib.suppress(UnfitError):
        assert 0 < skip(data, 0, code) <= len(data)


@settings(max_examples=50)
@given(st.data())
def test_a_message_ends_where_it_ends_however_it_arrives(
    decoders: dict[str, tuple[ReplyDecoder, bytes]], data: st.DataObject
) -> None:
    _, good = decoders[data.draw(st.sampled_from(sorted(decoders)))]
    stream = good + data.draw(st.binary(max_size=20))
    arrived, sent = bytearray(), 0
    search = end_of_message(arrived)
    needed, end = next(search), None
    while end is None:
        assert needed <= len(good)
        while len(arrived) < needed:
            size = data.draw(st.integers(1, 60))
            arrived += stream[sent : sent + size]
            sent += size
        try:
            needed = next(search)
        except StopIteration as found:
            end = found.value
    assert end == len(good)
