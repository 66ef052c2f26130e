"""Which addresses are here, and when that changes: asked of this machine's kernel."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
from collections.abc import Callable

import pytest

from targets.lio import addresses
from targets.lio.addresses import AddressWatch, listening_error

ADDRESS = "198.51.100.77"  # RFC 5737: documentation, so nobody's


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - nobody tells, that is what is tested
            await asyncio.sleep(0.02)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", "addr", *arguments, f"{ADDRESS}/32", "dev", "lo"], check=True)


async def test_loopback_and_wildcards_are_here_and_others_not() -> None:
    watch = AddressWatch(["127.0.0.1", "127.1.2.3", "0.0.0.0", ADDRESS], lambda: None)
    await watch.start()
    await watch.close()
    assert watch.present == {"127.0.0.1", "127.1.2.3", "0.0.0.0"}


def test_why_nobody_can_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = listening_error(f"127.0.0.1:{port}")
        assert error is not None
        assert error.errno == errno.EADDRINUSE
    assert listening_error(f"127.0.0.1:{port}") is None
    error = listening_error(f"{ADDRESS}:{port}")
    assert error is not None
    assert error.errno == errno.EADDRNOTAVAIL
    assert listening_error(f"[::1]:{port}") is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="adding an address needs root")
async def test_an_address_comes_and_goes() -> None:
    changes: list[frozenset[str]] = []
    watch = AddressWatch([ADDRESS], lambda: changes.append(watch.present))
    await watch.start()
    try:
        assert watch.present == set()
        ip("add")
        try:
            await until(lambda: changes == [{ADDRESS}])
        finally:
            ip("del")
        await until(lambda: changes == [{ADDRESS}, frozenset()])
    finally:
        await watch.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="adding an address needs root")
async def test_what_comes_while_the_kernel_can_not_be_asked_is_found_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A change whose look fails is no change that was seen; nor is the watch over."""
    monkeypatch.setattr(addresses, "_RETRY_S", 0.01)
    watch = AddressWatch([ADDRESS], lambda: None)
    await watch.start()
    opened, fails = watch._open, 3

    async def failing() -> None:
        nonlocal fails
        fails -= 1
        if fails >= 0:
            raise OSError(errno.ENOBUFS, "no sockets today")
        await opened()

    monkeypatch.setattr(watch, "_open", failing)
    try:
        ip("add")
        try:
            await until(lambda: watch.present == {ADDRESS})
        finally:
            ip("del")
        await until(lambda: not watch.present)
        assert fails < 0
    finally:
        await watch.close()
