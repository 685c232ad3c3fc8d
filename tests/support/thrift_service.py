"""A misbehaving Thrift service over real sockets, written with Apache's own library."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TApplicationException, TMessageType, TType
from thrift.transport.TTransport import TMemoryBuffer, TTransportException

IDL = """
enum Kind { MOVIE = 1, SHOW = 2 }
struct View { 1: required i64 video_id, 2: double minutes, 3: optional string title, 4: optional Kind kind }
struct Answer { 1: list<View> history, 2: string error }
struct Key { 1: string behaviour, 2: i32 country }
exception NotFound { 1: string message }
exception Broken { 1: i32 code, 2: string reason }
service Base { list<View> get_plain(1: string behaviour) }
service History extends Base {
    Answer get_history(1: string behaviour) throws (1: NotFound missing, 2: Broken broken),
    list<Answer> get_many(1: list<string> behaviours),
    list<list<View>> get_lists(1: list<string> behaviours),
    map<string, list<View>> get_map(1: list<string> behaviours),
    list<Answer> get_by_keys(1: list<Key> keys),
    set<Answer> get_set(1: list<string> behaviours),
    i32 get_number(1: string behaviour, 2: i32 country),
    list<View> get_for(1: string behaviour, 2: string day, 3: i64 at, 4: bool flag, 5: i16 small, 6: string since),
    void tell(1: string behaviour),
    oneway void throw_away(1: string behaviour)
}
"""
Writer = TBinaryProtocol


class ThriftService:
    """Answers a call by its first argument, or the first of the list: what it does stands in that text.

    connections: how many were made; open: those that still are; calls: by behaviour
    given_up: released for each caller that hung up while it was to wait
    arguments: of the last call
    reported: what `told` answers with, after the head of the message
    """

    def __init__(self, framed: bool = True, tls: ssl.SSLContext | None = None) -> None:
        self.framed, self._tls = framed, tls
        self.connections, self.given_up = 0, threading.Semaphore(0)
        self.calls: Counter[str] = Counter()
        self.arguments: dict[int, Any] = {}
        self.reported = b""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, method: str) -> str:
        scheme = "thrift" if self._tls is None else "thrifts"
        return f"{scheme}://localhost:{self.port}/History/{method}{'' if self.framed else '?transport=buffered'}"

    def hang_up(self) -> None:
        """Close all connections, as a restart does."""
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        self.open.add(connection)
        try:
            with contextlib.suppress(OSError, EOFError, TTransportException), connection:
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                self.open.add(connection)
                with connection:
                    while True:
                        _Call(self, connection).answer()
        finally:
            self.open.discard(connection)


class _Call:
    """One call on a connection."""

    def __init__(self, service: ThriftService, connection: socket.socket) -> None:
        self.service, self.connection = service, connection
        if service.framed:
            self._receive(4)
        protocol = TBinaryProtocol(_Source(self._receive))
        self.method, _, self.sequence = protocol.readMessageBegin()
        service.arguments = _read(protocol, TType.STRUCT)
        first = service.arguments[1]
        self.keys = first if isinstance(first, list) else [first]
        first = self.keys[0]
        self.behaviour = first[1] if isinstance(first, dict) else first
        service.calls[self.behaviour] += 1

    def answer(self) -> None:
        act: Callable[[_Call], None] | None = _ACTS.get(self.behaviour)
        if act is not None:
            act(self)
        elif self.method == "get_history":
            self.reply(lambda to: _single(to, self.behaviour))
        else:
            self.reply(lambda to: _BATCHES[self.method](to, self.keys))

    def reply(self, write: Callable[[Writer], None], kind: int = TMessageType.REPLY, ahead: int = 0) -> None:
        self.send(self.message(write, kind, ahead))

    def message(self, write: Callable[[Writer], None], kind: int = TMessageType.REPLY, ahead: int = 0) -> bytes:
        head = written(lambda to: to.writeMessageBegin(self.method, kind, self.sequence + ahead))
        return head + written(write)

    def send(self, message: bytes) -> None:
        self.connection.sendall((struct.pack(">i", len(message)) if self.service.framed else b"") + message)

    def wait_for_the_caller_to_hang_up(self) -> None:
        self.connection.settimeout(20)
        if self.connection.recv(1) == b"":
            self.service.given_up.release()
        raise EOFError

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.connection.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data


class _Source:
    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self.readAll = receive


def written(write: Callable[[Writer], None]) -> bytes:
    buffer = TMemoryBuffer()
    write(TBinaryProtocol(buffer))
    data: bytes = buffer.getvalue()
    return data


def write_fields(to: Writer, *fields: tuple[int, int, Callable[[], None]]) -> None:
    """Write a struct: of each field its number, its type, and what writes its value."""
    for number, code, write in fields:
        to.writeFieldBegin("", code, number)
        write()
    to.writeFieldStop()


def write_list(to: Writer, code: int, values: list[Any], write: Callable[[Any], None]) -> None:
    to.writeListBegin(code, len(values))
    for value in values:
        write(value)


def _read(protocol: TBinaryProtocol, code: int) -> Any:
    if code == TType.STRUCT:
        fields = {}
        while (found := protocol.readFieldBegin())[1] != TType.STOP:
            fields[found[2]] = _read(protocol, found[1])
        return fields
    if code == TType.LIST:
        inner, count = protocol.readListBegin()
        return [_read(protocol, inner) for _ in range(count)]
    read = {
        TType.I16: protocol.readI16,
        TType.I32: protocol.readI32,
        TType.I64: protocol.readI64,
        TType.STRING: protocol.readString,
        TType.BOOL: protocol.readBool,
    }
    return read[code]()


# What a behaviour's answer holds. `ok-7` is one view of video 7; anything else that is not named below is no view.


def _number(behaviour: str) -> int:
    return int(behaviour.rpartition("-")[2]) if "-" in behaviour else 0


def _view(to: Writer, number: int) -> None:
    write_fields(
        to,
        (1, TType.I64, lambda: to.writeI64(number)),
        (2, TType.DOUBLE, lambda: to.writeDouble(7.5)),
        (3, TType.STRING, lambda: to.writeString(f"title {number}")),
    )


def _views(to: Writer, behaviour: str) -> None:
    number = _number(behaviour)
    write_list(to, TType.STRUCT, [number] if number else [], lambda one: _view(to, one))


def _odd_view(to: Writer, *fields: tuple[int, int, Callable[[], None]]) -> None:
    _in_answer(to, lambda: write_list(to, TType.STRUCT, [0], lambda _: write_fields(to, *fields)))


def _in_answer(to: Writer, write: Callable[[], None], code: int = TType.LIST) -> None:
    _success(to, lambda: write_fields(to, (1, code, write)))


def _success(to: Writer, write: Callable[[], None], code: int = TType.STRUCT) -> None:
    write_fields(to, (0, code, write))


def _single(to: Writer, behaviour: str) -> None:
    _in_answer(to, lambda: _views(to, behaviour))


def _answer(to: Writer, behaviour: str) -> None:
    """One answer of a batch."""
    views = (1, TType.LIST, lambda: _views(to, behaviour))
    odd: dict[str, tuple[tuple[int, int, Callable[[], None]], ...]] = {
        "error": ((2, TType.STRING, lambda: to.writeString("no such profile")),),
        "neither": (),
        "no_error": (views, (2, TType.STRING, lambda: to.writeString(""))),
        "lying": ((1, TType.STRING, lambda: to.writeString("x")),),
        "large": ((1, TType.LIST, lambda: write_list(to, TType.STRUCT, [7] * 200, lambda one: _view(to, one))),),
    }
    write_fields(to, *odd.get(behaviour, (views,)))


def _list(to: Writer, keys: list[Any], write: Callable[[Any], None], code: int = TType.STRUCT) -> None:
    _success(to, lambda: write_list(to, code, keys, write), TType.LIST)


def _map(to: Writer, keys: list[str]) -> None:
    def write() -> None:
        known = [key for key in reversed(keys) if key != "unknown"]
        to.writeMapBegin(TType.STRING, TType.LIST, len(known))
        for key in known:
            to.writeString(key)
            _views(to, key)

    _success(to, write, TType.MAP)


_BATCHES: dict[str, Callable[[Writer, list[Any]], None]] = {
    "get_for": lambda to, keys: _success(to, lambda: _views(to, keys[0]), TType.LIST),
    "get_plain": lambda to, keys: _success(to, lambda: _views(to, keys[0]), TType.LIST),
    "get_many": lambda to, keys: _list(to, keys, lambda key: _answer(to, key)),
    "get_lists": lambda to, keys: _list(to, keys, lambda key: _views(to, key), TType.LIST),
    "get_map": _map,
    "get_by_keys": lambda to, keys: _list(to, keys, lambda key: _answer(to, f"ok-{key[2]}")),
}


# What else a behaviour may do.


def _hang(call: _Call) -> None:
    call.wait_for_the_caller_to_hang_up()


def _late(call: _Call) -> None:
    with contextlib.suppress(EOFError):
        call.wait_for_the_caller_to_hang_up()
    call.reply(lambda to: _single(to, "ok-666"))


def _slow(call: _Call) -> None:
    message = call.message(lambda to: _single(to, "ok-5"))
    if call.service.framed:
        message = struct.pack(">i", len(message)) + message
    for byte in message:
        call.connection.sendall(bytes([byte]))
        time.sleep(0.0005)


def _half_close(call: _Call) -> None:
    call.connection.shutdown(socket.SHUT_WR)
    call.wait_for_the_caller_to_hang_up()


def _cut(call: _Call) -> None:
    message = call.message(lambda to: _single(to, "ok-5"))
    prefix = struct.pack(">i", len(message)) if call.service.framed else b""
    call.connection.sendall(prefix + message[: len(message) // 2])
    raise EOFError


def _close(call: _Call) -> None:
    raise EOFError


def _raw(data: bytes) -> Callable[[_Call], None]:
    def act(call: _Call) -> None:
        call.connection.sendall(data)
        call.wait_for_the_caller_to_hang_up()

    return act


def _extra(call: _Call) -> None:
    message = call.message(lambda to: _single(to, "ok-5"))
    prefix = struct.pack(">i", len(message)) if call.service.framed else b""
    call.connection.sendall(prefix + message + b"and more")  # at once: what comes later, nobody can know of in time


def _reply(write: Callable[[Writer], None], **how: Any) -> Callable[[_Call], None]:
    return lambda call: call.reply(write, **how)


def _exception(code: int, message: str) -> Callable[[_Call], None]:
    return _reply(TApplicationException(code, message).write, kind=TMessageType.EXCEPTION)


def _thrown(number: int, *fields: Callable[[Writer], tuple[int, int, Callable[[], None]]]) -> Callable[[_Call], None]:
    def write(to: Writer) -> None:
        write_fields(to, (number, TType.STRUCT, lambda: write_fields(to, *(field(to) for field in fields))))

    return _reply(write)


def _unknown_field(content: bytes, code: int) -> Callable[[_Call], None]:
    """Answer with a field that the interface file does not have, and then as if nothing were."""

    def write(to: Writer) -> None:
        views = (1, TType.LIST, lambda: _views(to, "ok-5"))
        _success(to, lambda: write_fields(to, (77, code, lambda: to.trans.write(content)), views))

    return _reply(write)


_VIDEO = (1, TType.I64)
_ACTS: dict[str, Callable[[_Call], None]] = {
    "hang": _hang,
    "late": _late,
    "slow": _slow,
    "half_close": _half_close,
    "cut": _cut,
    "close": _close,
    "reported": lambda call: call.send(call.message(lambda to: to.trans.write(call.service.reported))),
    "extra": _extra,
    "huge": _raw(struct.pack(">i", 1 << 30) + b"x" * 1000),
    "unframed": _raw(struct.pack(">Iiibhbhi", 0x80010002, 0, 1, TType.STRUCT, 0, TType.STRING, 9, 1 << 30)),
    "garbage": _raw(bytes(range(200, 256)) * 100),
    "http": _raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "empty_frame": _raw(bytes(4)),
    "wrong_sequence": _reply(lambda to: _single(to, "ok-5"), ahead=1),
    "a_call": _reply(lambda to: _single(to, "ok-5"), kind=TMessageType.CALL),
    "trailing": _reply(lambda to: (_single(to, "ok-5"), to.trans.write(b"\0\0"))[0]),
    "neither": _reply(lambda to: to.writeFieldStop()),
    "not_found": _thrown(1, lambda to: (1, TType.STRING, lambda: to.writeString("no profile 7"))),
    "broken": _thrown(2, lambda to: (1, TType.I32, lambda: to.writeI32(9))),
    "broken_why": _thrown(2, lambda to: (2, TType.STRING, lambda: to.writeString("the disk is full"))),
    "undeclared": _thrown(3),
    "internal_error": _exception(TApplicationException.INTERNAL_ERROR, "KeyError"),
    "unknown_method": _exception(TApplicationException.UNKNOWN_METHOD, "no get_history"),
    "no_struct": _reply(lambda to: _success(to, lambda: to.writeString("x"), TType.STRING)),
    "no_list": _reply(lambda to: _in_answer(to, lambda: to.writeI64(7), TType.I64)),
    "list_of_texts": _reply(lambda to: _in_answer(to, lambda: write_list(to, TType.STRING, ["x"], to.writeString))),
    "text_for_number": _reply(lambda to: _odd_view(to, (1, TType.STRING, lambda: to.writeString("7")))),
    "float_for_number": _reply(lambda to: _odd_view(to, (1, TType.DOUBLE, lambda: to.writeDouble(7.0)))),
    "number_for_float": _reply(
        lambda to: _odd_view(to, (*_VIDEO, lambda: to.writeI64(7)), (2, TType.I64, lambda: to.writeI64(7)))
    ),
    "number_for_text": _reply(
        lambda to: _odd_view(to, (*_VIDEO, lambda: to.writeI64(7)), (3, TType.I32, lambda: to.writeI32(7)))
    ),
    "no_text": _reply(
        lambda to: _odd_view(to, (*_VIDEO, lambda: to.writeI64(7)), (3, TType.STRING, lambda: to.writeBinary(b"\xff")))
    ),
    "absent": _reply(lambda to: _odd_view(to, (*_VIDEO, lambda: to.writeI64(7)))),
    "lacking": _reply(lambda to: _odd_view(to, (2, TType.DOUBLE, lambda: to.writeDouble(7.5)))),
    "long_list": _reply(lambda to: _in_answer(to, lambda: to.writeListBegin(TType.STRUCT, 1 << 30))),
    "one_too_few": _reply(lambda to: _BATCHES["get_many"](to, ["ok-5"])),
    "list_of_numbers": _reply(lambda to: _list(to, [7, 8], to.writeI64, TType.I64)),
    "deep": _unknown_field(bytes([TType.LIST, 0, 0, 0, 1]) * 70, TType.LIST),
    "bomb": _unknown_field(struct.pack(">bi", 99, (1 << 31) - 1), TType.LIST),
    "no_type": _unknown_field(b"", 99),
    "newer": _unknown_field(struct.pack(">bbii3s", TType.STRING, TType.I32, 0, 0, b"")[:6], TType.MAP),
}


@contextlib.contextmanager
def thrift_service(framed: bool = True, tls: ssl.SSLContext | None = None) -> Iterator[ThriftService]:
    """Run one in threads of this process."""
    service = ThriftService(framed, tls)
    try:
        yield service
    finally:
        service.close()
