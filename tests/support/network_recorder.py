"""Records whom a command tries to speak to: every packet that leaves loopback, and every name that it looks up.

The command runs in a network namespace of its own that has loopback alone. All addresses of the world lead to it, so
that what is sent anywhere can be seen there, by whatever library or process it was sent, and reaches nobody.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_ISOLATED = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
_FILES = {  # mounted over those of /etc, so that names are looked up by packets and never through a local daemon
    "resolv.conf": "nameserver 192.0.2.53\noptions attempts:1 timeout:1\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "hosts": "127.0.0.1 localhost {host}\n::1 localhost\n",
}
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_RTM_NEWROUTE, _REQUEST_CREATE_ACKNOWLEDGE = 24, 0x1 | 0x400 | 0x4
_TABLE_LOCAL, _BOOT, _SCOPE_HOST, _LOCAL, _RTA_OIF = 255, 3, 254, 2, 4
_ALL_PROTOCOLS, _ATTACH_FILTER, _OUTGOING, _DNS = 3, 26, 4, 53
_NAMES = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}


@dataclass(frozen=True)
class Recording:
    """What a command did. packets: those that left loopback and all look-ups, each kind once, as text."""

    exit_code: int
    output: str
    errors: str
    packets: tuple[str, ...]


def may_isolate() -> bool:
    """Tell whether the kernel lets this user have a network of his own."""
    if shutil.which("unshare") is None:
        return False
    command = [*_ISOLATED, "mount", "-t", "tmpfs", "none", "/tmp"]
    return subprocess.run(command, capture_output=True).returncode == 0


def record(command: Sequence[str], environment: Mapping[str, str], timeout: float = 600) -> Recording:
    """Run a command to its end, isolated, and record its packets."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "packets.json"
        done = subprocess.run(
            [*_ISOLATED, sys.executable, __file__, str(report), *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert report.exists(), done.stderr
        return Recording(done.returncode, done.stdout, done.stderr, tuple(json.loads(report.read_text())))


def main(report: Path, command: Sequence[str]) -> int:
    """Run inside the namespace."""
    _mount_files(report.parent)
    _start_loopback()
    for family in (socket.AF_INET, socket.AF_INET6):
        _lead_everything_to_loopback(family)
    packets: set[str] = set()
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    _attach(listener, _FILTER)
    thread = threading.Thread(target=_listen, args=(listener, packets), daemon=True)
    thread.start()
    code = subprocess.run(command).returncode
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
        last.sendto(_END, ("192.0.2.1", 9))  # packets stay in order: before it is all that the command sent
    thread.join(30)
    report.write_text(json.dumps(sorted(packets)))
    return code


_END = b"the command has ended"


def _listen(listener: socket.socket, packets: set[str]) -> None:
    while True:
        data, address = listener.recvfrom(1 << 16)
        if data.endswith(_END):
            return
        if address[2] == _OUTGOING:
            packets.add(_describe(data))


def _describe(data: bytes) -> str:
    if data[0] >> 4 == 4:
        header, protocol = (data[0] & 15) * 4, data[9]
        target = socket.inet_ntop(socket.AF_INET, data[16:20])
    else:
        header, protocol = 40, data[6]
        target = socket.inet_ntop(socket.AF_INET6, data[24:40])
    name = _NAMES.get(protocol, str(protocol))
    if name not in ("tcp", "udp"):
        return f"{name} to {target}"
    port = int.from_bytes(data[header + 2 : header + 4], "big")
    asked = f", name {_name(data[header + 20 :])}" if name == "udp" and port == _DNS else ""
    return f"{name} to {target} port {port}{asked}"


def _name(question: bytes) -> str:
    """Read the name of a DNS question."""
    labels = []
    while question and question[0]:
        labels.append(question[1 : question[0] + 1].decode("ascii", "replace"))
        question = question[question[0] + 1 :]
    return ".".join(labels)


def _mount_files(folder: Path) -> None:
    for name, text in _FILES.items():
        if (Path("/etc") / name).exists():
            own = folder / name
            own.write_text(text.format(host=socket.gethostname()))
            subprocess.run(["mount", "--bind", str(own), f"/etc/{name}"], check=True)


def _start_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16sh", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _lead_everything_to_loopback(family: int) -> None:
    """Do what `ip route add local default dev lo` does: all addresses are then addresses of this machine."""
    route = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _TABLE_LOCAL, _BOOT, _SCOPE_HOST, _LOCAL, 0)
    attribute = struct.pack("=HHi", 8, _RTA_OIF, socket.if_nametoindex("lo"))
    length = 16 + len(route) + len(attribute)
    header = struct.pack("=IHHII", length, _RTM_NEWROUTE, _REQUEST_CREATE_ACKNOWLEDGE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as control:
        control.send(header + route + attribute)
        error = struct.unpack_from("=i", control.recv(4096), 16)[0]
    # A kernel without IPv6 sends nothing by it either.
    if error and family == socket.AF_INET:
        raise OSError(-error, os.strerror(-error))


# Classic BPF, which the kernel runs on each packet: keep those to an address outside loopback, and those to port 53.
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD, _AND, _EQUAL, _RETURN = 0x30, 0x28, 0x20, 0x54, 0x15, 0x06
_HEADER_LENGTH, _LOAD_HALF_AFTER_HEADER = 0xB1, 0x48
_KEEP, _DROP = 1 << 18, 0
_FILTER = [
    (_LOAD_BYTE, 0, 0, 0),
    (_AND, 0, 0, 0xF0),
    (_EQUAL, 1, 0, 0x40),  # IPv4
    (_EQUAL, 6, 12, 0x60),  # IPv6, else drop
    (_LOAD_WORD, 0, 0, 16),
    (_AND, 0, 0, 0xFF000000),
    (_EQUAL, 0, 10, 0x7F000000),  # outside 127.0.0.0/8: keep
    (_HEADER_LENGTH, 0, 0, 0),
    (_LOAD_HALF_AFTER_HEADER, 0, 0, 2),
    (_EQUAL, 7, 6, _DNS),
    (_LOAD_WORD, 0, 0, 24),
    (_EQUAL, 0, 5, 0),
    (_LOAD_WORD, 0, 0, 36),
    (_EQUAL, 0, 3, 1),  # outside ::1: keep
    (_LOAD_HALF, 0, 0, 42),
    (_EQUAL, 1, 0, _DNS),
    (_RETURN, 0, 0, _DROP),
    (_RETURN, 0, 0, _KEEP),
]


def _attach(listener: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
