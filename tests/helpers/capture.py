"""Captures of TCP connections, as tcpdump would write them, without its privileges: from bytes that
a relay recorded, or that a test made."""

import itertools
import select
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_RAW_IP = 101  # the link type: what follows is an IP packet
_FILE = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_IP = struct.Struct(">BBHHHBBH4s4s")
_TCP = struct.Struct(">HHIIBBHHH")
_CLIENT, _SERVER = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
_CLIENT_PORT = 40000
_SEGMENT_MAX = 1400  # bytes
_SYN, _ACK, _PSH = 0x02, 0x10, 0x08


class Chunk(NamedTuple):
    """Bytes of one direction, in the order in which both directions came."""

    to_server: bool
    data: bytes


def cut(chunks: Iterable[Chunk], size: int) -> Iterator[Chunk]:
    """The same bytes in smaller pieces."""
    for to_server, data in chunks:
        for start in range(0, len(data), size):
            yield Chunk(to_server, data[start : start + size])


def write_capture(path: Path, chunks: Iterable[Chunk], port: int) -> None:
    """Write the connection to `port` as a pcap file: a segment for each chunk, or more where it is
    too long for one."""
    sent = [1000, 5000]  # the next sequence number of the server's side and of the client's
    clock = itertools.count(1_700_000_000_000_000, 1000)  # microseconds

    def record(to_server: bool, flags: int, data: bytes = b"") -> bytes:
        ports = (_CLIENT_PORT, port) if to_server else (port, _CLIENT_PORT)
        ends = (_CLIENT, _SERVER) if to_server else (_SERVER, _CLIENT)
        numbers = sent[to_server], sent[not to_server] if flags & _ACK else 0
        segment = _TCP.pack(*ports, *numbers, _TCP.size // 4 << 4, flags, 65535, 0, 0) + data
        packet = _IP.pack(0x45, 0, _IP.size + len(segment), 0, 0, 64, 6, 0, *ends) + segment
        sent[to_server] += len(data) + (flags & _SYN != 0)
        seconds, micros = divmod(next(clock), 1_000_000)
        return _RECORD.pack(seconds, micros, len(packet), len(packet)) + packet

    with path.open("wb") as file:
        file.write(_FILE.pack(0xA1B2C3D4, 2, 4, 0, 0, 262144, _RAW_IP))
        file.write(record(True, _SYN))
        file.write(record(False, _SYN | _ACK))
        file.write(record(True, _ACK))
        for to_server, data in cut(chunks, _SEGMENT_MAX):
            file.write(record(to_server, _PSH | _ACK, data))


@contextmanager
def recording(server_port: int) -> Iterator[tuple[int, list[Chunk]]]:
    """A port that passes one connection on to a server; what passed is in the list at the end."""
    chunks: list[Chunk] = []
    stop, stopped = socket.socketpair()

    def run(listener: socket.socket) -> None:
        if stopped in select.select([listener, stopped], [], [])[0]:
            return
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", server_port)) as server:
            while True:
                ready, _, _ = select.select([client, server, stopped], [], [])
                for source, sink in ((client, server), (server, client)):
                    if source in ready:
                        data = source.recv(65536)
                        if not data:
                            return
                        chunks.append(Chunk(source is client, data))
                        sink.sendall(data)
                if stopped in ready:
                    return

    with stop, stopped, socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], chunks
        finally:
            stop.send(b"e")
            thread.join()
