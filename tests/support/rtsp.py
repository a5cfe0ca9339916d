"""An RTSP server for one viewer at a time: an MPEG-4 clip over TCP, as cameras send it (RFC 2326, 3016)."""

import re
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any


class _Viewer(socketserver.StreamRequestHandler):
    server: Any

    def handle(self) -> None:
        while head := self._read_head():
            method, number = head.split()[0], re.search(r"CSeq: (\d+)", head)
            more, body = "", ""
            if method == "DESCRIBE":
                config = self.server.config.hex()
                body = (
                    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                    f"a=rtpmap:96 MP4V-ES/90000\r\na=fmtp:96 config={config}\r\na=control:track0\r\n"
                )
                more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            elif method == "PLAY":
                more = "Session: 1\r\nRange: npt=0-\r\n"
            self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {number[1] if number else 0}\r\n{more}\r\n{body}".encode())
            if method == "PLAY":
                self._play()
                return

    def _read_head(self) -> str:
        lines = []
        while (line := self.rfile.readline()).strip():
            lines.append(line.decode())
        return "".join(lines)

    def _play(self) -> None:
        start, sequence = time.monotonic(), 0
        for moment, packet in self.server.packets:
            if (wait := start + float(moment) / self.server.speed - time.monotonic()) > 0:
                time.sleep(wait)  # as a camera would
            parts = [packet[i : i + 1400] for i in range(0, len(packet), 1400)]
            for index, part in enumerate(parts):
                marker = 0x80 if index == len(parts) - 1 else 0
                head = struct.pack(">BBHII", 0x80, 96 | marker, sequence & 0xFFFF, int(moment * 90000), 7)
                sequence += 1
                try:
                    self.wfile.write(b"$\0" + struct.pack(">H", len(head) + len(part)) + head + part)
                except OSError:
                    return
        if self.server.stalls:
            self.server.ending.wait(30)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


@contextmanager
def serve_rtsp(clip: Path, stalls: bool = True, speed: float = 1.0) -> Iterator[str]:
    """The address of a camera that shows an MPEG-4 clip (`mpeg4` in .mp4) once, then stalls or hangs up."""
    import av

    with av.open(str(clip)) as source:
        stream = source.streams.video[0]
        packets = [(Fraction(p.pts * p.time_base), bytes(p)) for p in source.demux(stream) if p.pts is not None]
        config = bytes(stream.codec_context.extradata)
    server: Any = _Server(("127.0.0.1", 0), _Viewer)
    server.packets, server.config, server.stalls, server.speed = packets, config, stalls, speed
    server.ending = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"rtsp://127.0.0.1:{server.server_address[1]}/{clip.stem}"
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
