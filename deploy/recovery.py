"""What a crash and a cut of the link cost afterwards: how much is compared, and how much travels.

Owns the measurement that docs/numbers.md records. Two real controllers under random-like 4 KiB
writes of depth 32 over a 4 GiB volume; the primary is killed, later the link is cut for a second.
What must travel is counted from the two image files while nothing runs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.pair import PATH, LocalPair, PairError, free_port

BLOCK_BYTES = 4096
VOLUME_BYTES = 4 << 30
STEP_BYTES = (5 << 20) + BLOCK_BYTES
"""Further than an extent, and no divisor of the volume: each write is in another extent."""
DEPTH = 32
LOAD_S = 4.0
CUT_S = 1.0
MISSED_S = 0.1
CHUNK_BYTES = 1 << 20


class Cable:
    """A TCP relay between two controllers that can be pulled and put back."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self.port = free_port()
        self._listener: socket.socket | None = None
        self._ends: list[socket.socket] = []

    def plug_in(self) -> None:
        """Let connections through."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def pull(self) -> None:
        """End every connection, and refuse new ones."""
        if self._listener is not None:
            # A thread in accept() keeps a socket that is only closed alive.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        ends, self._ends = self._ends, []
        for end in ends:
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to_port))
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 18):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    end.close()


@contextmanager
def load(url: str) -> Iterator[None]:
    """Writes to ever other extents until the block ends; each pass writes another pattern."""
    script = (
        f"p={os.getpid() % 200}; "
        'while "$0" bench -f raw -t none -w -c "$4" -d "$2" -s 4k -S "$3" --pattern=$p "$1"; '
        "do p=$((p % 250 + 1)); done"
    )
    qemu_img, passes = LocalPair.tool("qemu-img"), str(VOLUME_BYTES // STEP_BYTES)
    process = subprocess.Popen(
        ["/bin/sh", "-c", script, qemu_img, url, str(DEPTH), str(STEP_BYTES), passes],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": PATH},
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def differing_bytes(one: Path, other: Path) -> int:
    """Bytes of the 4 KiB blocks that differ between two images."""
    found = 0
    with one.open("rb") as first, other.open("rb") as second:
        while chunk := first.read(CHUNK_BYTES):
            beside = second.read(CHUNK_BYTES)
            if chunk != beside:
                found += sum(
                    chunk[at : at + BLOCK_BYTES] != beside[at : at + BLOCK_BYTES]
                    for at in range(0, len(chunk), BLOCK_BYTES)
                )
    return found * BLOCK_BYTES


def measure_recovery(directory: Path) -> dict[str, dict[str, float]]:
    """A crash of the busy primary, then a cut of the link; sizes in MiB."""
    pair = LocalPair(directory)
    pair.configure()
    cable = Cable(pair.ports["link2"])
    conf = directory / "conf" / "ctl1.toml"
    text = conf.read_text(encoding="utf-8")
    conf.write_text(
        text.replace(f"127.0.0.1:{pair.ports['link2']}", f"127.0.0.1:{cable.port}"),
        encoding="utf-8",
    )
    try:
        pair.launch_broker()
        pair.launch_controller(2)
        pair.wait_online("ctl2")
        cable.plug_in()
        pair.launch_controller(1)
        pair.wait_online("ctl1", "ctl2")
        _linked(pair)
        for volume in ("ctl1/first", "ctl2/second"):
            pair.trilun("volume", "create", volume, str(VOLUME_BYTES))
        pair.trilun("pair", "create", "demo-remote", "ctl1/first", "ctl2/second")
        pair.trilun("pair", "wait", "demo-remote", "PAIR")
        images = (pair.image("first"), pair.image("second"))
        url = _url(pair)
        return {
            "primary killed under load": _crash(pair, url, images, cable),
            "link cut for 1 s under load": _cut(pair, url, images, cable),
        }
    finally:
        cable.pull()
        pair.stop()


def _linked(pair: LocalPair) -> None:
    deadline_s = time.monotonic() + 20
    while True:
        nodes = pair.trilun("status")["nodes"]
        if all(all(node.get("peers", {}).values()) for node in nodes):
            return
        if time.monotonic() > deadline_s:
            raise PairError("the controllers do not find each other")
        time.sleep(0.1)


def _crash(pair: LocalPair, url: str, images: tuple[Path, Path], cable: Cable) -> dict[str, float]:
    with load(url):
        time.sleep(LOAD_S)
        # The other side misses the last writes, so that there is something to find.
        cable.pull()
        time.sleep(MISSED_S)
        pair.kill("ctl1")
    differing = differing_bytes(*images)
    cable.plug_in()
    pair.launch_controller(1)
    pair.wait_online("ctl1")
    return _bill(pair, differing)


def _cut(pair: LocalPair, url: str, images: tuple[Path, Path], cable: Cable) -> dict[str, float]:
    with load(url):
        time.sleep(LOAD_S)
        cable.pull()
        time.sleep(CUT_S)
    # What a controller has accepted may be on its way still.
    time.sleep(CUT_S)
    differing = differing_bytes(*images)
    cable.plug_in()
    bill = _bill(pair, differing)
    return bill | {"in flight at most": DEPTH * BLOCK_BYTES / (1 << 20)}


def _bill(pair: LocalPair, differing: int) -> dict[str, float]:
    pair.trilun("pair", "wait", "demo-remote", "PAIR", "--timeout", "120")
    info: dict[str, Any] = pair.trilun("pair", "show", "ctl1/demo-remote")["pair"]
    verified = pair.trilun("pair", "verify", "demo-remote")["verify"]
    if verified["differing_bytes"]:
        raise PairError(f"the sides differ afterwards: {verified}")
    mib = 1 << 20
    return {
        "differing": differing / mib,
        "compared": info["resync_compared_bytes"] / mib,
        "copied": info["resync_payload_bytes"] / mib,
    }


def _url(pair: LocalPair) -> str:
    info = pair.trilun("volume", "show", "ctl1/first")
    return f"iscsi://{info['portals'][0]}/{info['target']}/0"
