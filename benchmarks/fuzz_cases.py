"""What the fuzzing of the proxy sends: malformed frames and calls of many kinds, the same for a seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.protocol.TJSONProtocol import TJSONProtocol
from thrift.Thrift import TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from prana_proxy.protocol.thrift_protocol import LARGEST_FRAME
from schemas.generated.Prana import authenticate_args, fetch_args, services_args
from schemas.generated.ttypes import FetchRequest

Make = Callable[[random.Random], bytes]
TYPES = bytes([2, 3, 4, 6, 8, 10, 11, 12, 13, 14, 15])  # of the binary protocol
DEEPEST = 100_000
_HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(32) + bytes.fromhex("20") + bytes(32) + b"\x00\x02\x13\x01"


@dataclass(frozen=True)
class Case:
    """What is sent. whole: as one frame, so that an answer or a hang-up must come without more."""

    kind: str
    data: bytes
    whole: bool


def framed(payload: bytes) -> bytes:
    """Put a length before a payload."""
    return struct.pack("!i", len(payload)) + payload


def fetch(contexts: bytes, service: str = "one", budget_ms: int = 5_000, protocol: type = TBinaryProtocol) -> bytes:
    """A good fetch, but for its contexts."""
    return _message("fetch", fetch_args(FetchRequest(service, contexts, budget_ms)), protocol)


def stream(*batches: pa.RecordBatch, **options: object) -> bytes:
    """An Arrow IPC stream. options: as Arrow's `IpcWriteOptions` has them."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def ids(*numbers: int) -> pa.RecordBatch:
    """Contexts."""
    return pa.record_batch({"profile_id": pa.array(numbers, pa.int64())})


def cases(seed: int) -> Iterator[Case]:
    """Make cases without an end, all kinds in turns."""
    rng = random.Random(seed)
    while True:
        for kind, (make, whole) in KINDS.items():
            yield Case(kind, make(rng), whole)


def _message(name: str, arguments: object, protocol: type = TBinaryProtocol) -> bytes:
    buffer = TMemoryBuffer()
    writer = protocol(buffer)
    writer.writeMessageBegin(name, TMessageType.CALL, 1)
    arguments.write(writer)  # type: ignore[attr-defined]  # generated
    writer.writeMessageEnd()
    return bytes(buffer.getvalue())


def _good(rng: random.Random) -> bytes:
    made = (
        lambda: fetch(stream(ids(*range(rng.randrange(20))))),
        lambda: _message("services", services_args()),
        lambda: _message("authenticate", authenticate_args("a token")),
    )
    return rng.choice(made)()


def _random(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(300))


def _random_frame(rng: random.Random) -> bytes:
    return framed(rng.randbytes(rng.randrange(1, 300)))


def _random_arguments(rng: random.Random) -> bytes:
    name = rng.choice([b"fetch", b"services", b"authenticate", b"no_such_call"])
    head = struct.pack("!Ii", 0x80010001, len(name)) + name + struct.pack("!i", 1)
    return framed(head + rng.choice([b"", b"\x0c\x00\x01"]) + rng.randbytes(rng.randrange(100)))


def _truncated(rng: random.Random) -> bytes:
    whole = framed(_good(rng))
    return whole[: rng.randrange(1, len(whole))]


def _cut_short(rng: random.Random) -> bytes:
    """A frame that is whole, of a call that is not."""
    whole = _good(rng)
    return framed(whole[: rng.randrange(1, len(whole))])


def _oversized(rng: random.Random) -> bytes:
    size = rng.choice([LARGEST_FRAME + 1, 2**31 - 1, -1, -(2**31), rng.randrange(LARGEST_FRAME + 1, 2**31), 0])
    return struct.pack("!i", size) + rng.randbytes(rng.randrange(50))


def _claims(rng: random.Random) -> bytes:
    """A field that says it is larger than the frame."""
    size = struct.pack("!i", rng.choice([2**31 - 1, -1, LARGEST_FRAME, 10_001, rng.randrange(-(2**31), 2**31)]))
    kind = rng.choice([11, 13, 14, 15])
    body = {11: size, 13: rng.choice(TYPES).to_bytes() * 2 + size}.get(kind, rng.choice(TYPES).to_bytes() + size)
    number = rng.choice([b"\x00\x01", b"\x00\x02", b"\x00\x63"])
    return framed(_head(b"fetch") + b"\x0c\x00\x01" + bytes([kind]) + number + body + rng.randbytes(rng.randrange(40)))


def _nested(rng: random.Random) -> bytes:
    depth = rng.choice([10, 60, 70, 1_000, rng.choice([1_000, DEEPEST])])
    level = rng.choice(
        [
            b"\x0c\x00\x63",
            b"\x0f\x00\x00\x00\x01",
            b"\x0e\x00\x00\x00\x01",
            b"\x0d\x0d\x00\x00\x00\x01",
            b"\x02\x0d\x00\x00\x00\x01\x01",
        ]
    )
    kind = {0x0C: 12, 0x0F: 15, 0x0E: 14}.get(level[0], 13)
    start = b"" if kind == 12 else bytes([kind]) + b"\x00\x63"
    inside = rng.choice([b"", b"\x0c\x00\x01"])
    return framed(_head(rng.choice([b"fetch", b"services", b"no_such_call"])) + inside + start + level * depth)


def _other_protocol(rng: random.Random) -> bytes:
    compact = fetch(stream(ids(1)), protocol=TCompactProtocol)
    json = fetch(stream(ids(1)), protocol=TJSONProtocol)
    return rng.choice(
        [
            b"GET / HTTP/1.1\r\nHost: prana\r\n\r\n",
            b"POST /prana HTTP/1.1\r\nContent-Length: 3\r\n\r\n{}\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.7\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            _HELLO,
            compact,
            framed(compact),
            json,
            framed(json),
            fetch(stream(ids(1))),  # without a frame
        ]
    )


def _flipped(rng: random.Random) -> bytes:
    return framed(_flip(rng, _good(rng)))


def _flipped_whole(rng: random.Random) -> bytes:
    """Flips in the frame's length too."""
    return _flip(rng, framed(_good(rng)))


def _damaged_arrow(rng: random.Random) -> bytes:
    good = stream(ids(*range(rng.randrange(1, 200))), *[ids(7)] * rng.randrange(3))
    damaged = _flip(rng, good, rng.randrange(1, 8))
    return framed(fetch(damaged[: rng.randrange(len(damaged))] if rng.random() < 0.2 else damaged))


def _lying_arrow(rng: random.Random) -> bytes:
    """Streams that stand for more than they hold, damaged or not."""
    text = "x" * rng.randrange(1, 5_000)
    made = (
        lambda: stream(ids(*range(2_000)), compression=rng.choice(["lz4", "zstd"])),
        lambda: stream(pa.record_batch({"profile_id": pa.nulls(rng.randrange(10**6, 10**9))})),
        lambda: stream(ids(1, 2).append_column("more", pa.array(["a", "a"]).dictionary_encode())),
        lambda: stream(ids(1, 2).append_column("more", pa.array([text] * 2, pa.string_view()))),
        lambda: stream(ids(1).append_column("more", pa.array([_nested_list(rng.randrange(1, 60))]))),
        lambda: stream(pa.record_batch({f"c{i}": [1] for i in range(rng.randrange(1, 500))})),
        lambda: stream(pa.record_batch({"profile_id": pa.array([True] * 200_000)})),
        lambda: stream(ids(*range(100)).slice(rng.randrange(100), 0)),
    )
    data = rng.choice(made)()
    return framed(fetch(_flip(rng, data, rng.randrange(1, 5)) if rng.random() < 0.5 else data))


def _wrong_values(rng: random.Random) -> bytes:
    service = rng.choice(["one", "ones", "", "\x00", "ü" * 1000])
    return framed(fetch(stream(ids(*range(3))), service, rng.choice([0, -1, 1, 2**31 - 1, -(2**31)])))


def _large(rng: random.Random) -> bytes:
    size = rng.randrange(1 << 20, 4 << 20)
    field = rng.choice([b"\x02\x00\x63\x01", b"\x0c\x00\x63\x00", b"\x0f\x00\x63\x0b\x00\x00\x00\x00", b"\x00"])
    return framed(_head(rng.choice([b"fetch", b"services"])) + field * (size // len(field)))


def _seldom(rare: Make, usual: Make, share: float) -> Make:
    return lambda rng: (rare if rng.random() < share else usual)(rng)


def _nested_list(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def _head(name: bytes) -> bytes:
    return struct.pack("!Ii", 0x80010001, len(name)) + name + struct.pack("!i", 1)


def _flip(rng: random.Random, data: bytes, times: int = 3) -> bytes:
    changed = bytearray(data)
    for _ in range(times):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


KINDS: dict[str, tuple[Make, bool]] = {
    "random bytes": (_random, False),
    "random frame": (_random_frame, True),
    "random arguments": (_random_arguments, True),
    "truncated": (_truncated, False),
    "cut short": (_cut_short, True),
    "oversized": (_oversized, False),
    "fields that claim too much": (_claims, True),
    "deeply nested": (_nested, True),
    "another protocol": (_other_protocol, False),
    "bits flipped": (_flipped, True),
    "bits of the length flipped": (_flipped_whole, False),
    "damaged Arrow": (_damaged_arrow, True),
    "Arrow that lies": (_lying_arrow, True),
    "wrong values": (_wrong_values, True),
    "large, or random": (_seldom(_large, _random_frame, 0.02), True),
}
