"""Writes that say what they are: runs on a lab host with the standard library alone.

`write PATH BLOCKS RUN FIRST` overwrites 4 KiB blocks in random order, each with its place and a
version that only grows from FIRST on, flushes, and reports what a flush covered: a line
`place:version ...` follows the fdatasync that made those durable. `error NAME` reports what failed;
nothing before it counts as flushed by it.
`read PATH BLOCKS RUN` prints one `place:version` a line, or `place:torn`.
Both go past the page cache.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import random
import struct
import sys
import time
from collections.abc import Callable

BLOCK_BYTES = 4096
HEAD = struct.Struct("<16sQQQ")
MAGIC = b"trilun-lab-block"
DIGEST_BYTES = 32
BATCH = 12
PAUSE_S = 0.01


def block(run: int, place: int, version: int) -> bytes:
    """A block's content."""
    body = HEAD.pack(MAGIC, run, place, version)
    filled = (body * (BLOCK_BYTES // len(body) + 1))[: BLOCK_BYTES - DIGEST_BYTES]
    return filled + hashlib.sha256(filled).digest()


def version_of(data: bytes, run: int, place: int) -> int | None:
    """Which version this is; 0 for a block never written, None for anything else."""
    if not any(data):
        return 0
    magic, its_run, its_place, version = HEAD.unpack_from(data)
    whole = data == block(run, place, version)
    return version if whole and (magic, its_run, its_place) == (MAGIC, run, place) else None


def write(path: str, blocks: int, run: int, first: int) -> None:
    """Write until killed."""
    buffer = mmap.mmap(-1, BLOCK_BYTES)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    chance = random.Random(run + first)
    version = first
    while True:
        covered: dict[int, int] = {}
        try:
            for _ in range(chance.randint(1, BATCH)):
                place, version = chance.randrange(blocks), version + 1
                covered.pop(place, None)
                buffer[:] = block(run, place, version)
                assert os.pwrite(fd, buffer, place * BLOCK_BYTES) == BLOCK_BYTES
                covered[place] = version
            os.fdatasync(fd)
        except OSError as error:
            print("error", errno.errorcode.get(error.errno or 0, "?"), flush=True)
            time.sleep(1)
            continue
        print(*(f"{place}:{number}" for place, number in covered.items()), flush=True)
        time.sleep(PAUSE_S)


def read(path: str, blocks: int, run: int) -> None:
    """Tell what is there."""
    buffer = mmap.mmap(-1, BLOCK_BYTES)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    for place in range(blocks):
        assert os.preadv(fd, [buffer], place * BLOCK_BYTES) == BLOCK_BYTES
        version = version_of(buffer[:], run, place)
        print(f"{place}:{'torn' if version is None else version}")


DO: dict[str, Callable[..., None]] = {"write": write, "read": read}

if __name__ == "__main__":
    verb, place, *numbers = sys.argv[1:]
    DO[verb](place, *map(int, numbers))
