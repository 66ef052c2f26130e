"""What the kernel tells about TCMU devices: added, removed, resized.

Owns the netlink family TCM-USER (Linux, include/uapi/linux/target_core_user.h, version 2) and one
task that listens. A shell. Must not answer: see below. Fails with OSError at the start where the
kernel has no such family; later by calling `heard` with None: events were lost, look again.

The family can make the kernel wait for a handler's answer at each change of any device. We
don't ask for it: our devices are made with `nl_reply_supported=-1`. The switch is one for the
whole machine, so it changes what other handlers' devices wait for; every listener hears of all
devices, and the first answer counts, whoever gives it; and it outlives the process that set it,
after which each change sleeps in the kernel where nothing ends it. What an answer would give us
we have without: a device is served before its LUN is made, and unmapped behind its LUN's end,
in one order that we keep. The kernel still wants a listener: without any, a resize is refused
with ESRCH.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass

from pyroute2.netlink import genlmsg
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket

from targets.lio.netlink import NetlinkTask

log = logging.getLogger(__name__)

FAMILY = "TCM-USER"
GROUP = "config"
_RETRY_S = 1.0


class Happening(enum.IntEnum):
    """The commands that the kernel multicasts."""

    ADDED = 1
    REMOVED = 2
    RECONFIGURED = 3


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """Something happened to a device, of ours or of anybody's."""

    happening: Happening
    device: str
    """`tcm-user/<hba>/<backstore>/<config>`, the name of the uio node."""
    minor: int


class TcmuMessage(genlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """A message of the family."""

    nla_map = (
        ("TCMU_ATTR_UNSPEC", "none"),
        ("TCMU_ATTR_DEVICE", "asciiz"),
        ("TCMU_ATTR_MINOR", "uint32"),
        ("TCMU_ATTR_PAD", "none"),
        ("TCMU_ATTR_DEV_CFG", "asciiz"),
        ("TCMU_ATTR_DEV_SIZE", "uint64"),
        ("TCMU_ATTR_WRITECACHE", "uint8"),
        ("TCMU_ATTR_CMD_STATUS", "int32"),
        ("TCMU_ATTR_DEVICE_ID", "uint32"),
        ("TCMU_ATTR_SUPP_KERN_CMD_REPLY", "uint8"),
    )


class DeviceEvents(NetlinkTask):
    """Listens, from `start` to `close`."""

    def __init__(self, heard: Callable[[DeviceEvent | None], None]) -> None:
        super().__init__("tcmu events")
        self._heard = heard

    async def start(self) -> None:
        """Listen; from its return on every event is heard. Raises OSError without the family."""
        await self._open()
        self._begin()

    def _new_socket(self) -> AsyncGenericNetlinkSocket:
        return AsyncGenericNetlinkSocket()

    async def _bind(self) -> None:
        await self._socket.bind(FAMILY, TcmuMessage)
        self._socket.add_membership(GROUP)

    async def _listen(self) -> None:
        while True:
            try:
                async for message in self._socket.get():
                    event = decode(message)
                    if event is not None:
                        self._heard(event)
            except Exception as error:  # noqa: BLE001 - the library raises what it likes
                log.warning("events of TCMU devices were lost: %s", error)
                await self._again()
                self._heard(None)

    async def _again(self) -> None:
        """Listen anew, as soon as that can be done."""
        self._socket.close()
        while True:
            await asyncio.sleep(_RETRY_S)
            try:
                await self._open()
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("can't listen to events of TCMU devices: %s", error)
            else:
                return


def decode(message: TcmuMessage) -> DeviceEvent | None:
    """What a message says; None for what isn't an event of the family."""
    try:
        happening = Happening(message["cmd"])
    except (KeyError, ValueError):
        return None
    device = message.get_attr("TCMU_ATTR_DEVICE")
    if not isinstance(device, str):
        return None
    minor = message.get_attr("TCMU_ATTR_MINOR")
    return DeviceEvent(happening, device, minor if isinstance(minor, int) else -1)
