"""The embedded iSCSI target as this controller's front end.

Owns the binding of `controller.exports.Exporter` to `targets.iscsi`. Must not know pairs. Fails
with RejectedError where a host is in the way, OSError where a portal's address can't be had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import SessionInfo
from controller.volume.volume import Volume
from targets.iscsi.chap import ChapCredentials
from targets.iscsi.node import TargetBusyError, TargetConfig, UnknownTargetError
from targets.iscsi.server import IscsiServer
from targets.lun import UnitAttention

LUN = 0


class EmbeddedExporter:
    """One server, one target a volume."""

    def __init__(self, server: IscsiServer, chap: ChapCredentials | None) -> None:
        self._server = server
        self._chap = chap
        self._portals: list[str] = []
        self._iqns: set[str] = set()

    async def listen(self, host: str, port: int) -> None:
        """Open a portal."""
        bound_host, bound_port = await self._server.listen(host, port)
        name = f"[{bound_host}]" if ":" in bound_host else bound_host
        self._portals.append(f"{name}:{bound_port}")

    @property
    def portals(self) -> list[str]:
        """Addresses initiators connect to."""
        return self._portals

    def offer(self, iqn: str, volume: Volume, initiators: Sequence[str]) -> None:
        """Export a volume."""
        config = TargetConfig(
            iqn=iqn,
            luns={LUN: volume},
            chap=self._chap,
            alias=volume.name,
            initiators=frozenset(initiators),
        )
        self._server.add_target(config)
        self._iqns.add(iqn)

    async def ready(self, iqn: str) -> None:
        """It is, as soon as it is offered."""

    def trouble(self, iqn: str) -> str:
        """None: it listens, or it would not be here."""
        del iqn
        return ""

    async def withdraw(self, iqn: str, *, force: bool) -> None:
        """Stop exporting; a repeated call finds nothing to do."""
        try:
            await self._server.remove_target(iqn, force)
            self._iqns.discard(iqn)
        except UnknownTargetError:
            return
        except TargetBusyError as error:
            raise RejectedError(
                Code.IN_USE, f"an initiator is logged in to {iqn}", "log it out first"
            ) from error

    async def withdraw_all(self) -> None:
        """End every session."""
        await asyncio.gather(*(self.withdraw(iqn, force=True) for iqn in sorted(self._iqns)))

    def sessions(self, iqn: str) -> list[SessionInfo]:
        """Who is logged in."""
        try:
            found = self._server.sessions(iqn)
        except UnknownTargetError:
            return []
        return [
            SessionInfo(
                initiator=each.initiator,
                address=each.address,
                since_s=each.since,
                lost_writes=each.lost_writes,
            )
            for each in found
        ]

    def cut_off_by(self, iqn: str, initiators: Sequence[str]) -> list[SessionInfo]:
        """Those that aren't in the list."""
        return [
            each
            for each in self.sessions(iqn)
            if initiators and each.initiator.lower() not in initiators
        ]

    async def allow(self, iqn: str, initiators: Sequence[str]) -> None:
        """At once; returns when the sessions of others have ended."""
        await self._server.allow(iqn, frozenset(initiators))

    def attention(self, iqn: str, attention: UnitAttention) -> None:
        """Tell every initiator of the volume."""
        self._server.attention(iqn, LUN, attention)

    def grown(self, iqn: str) -> None:
        """They ask for the capacity when they hear of it (SPC-4, 2Ah/09h)."""
        self.attention(iqn, UnitAttention.CAPACITY_CHANGED)

    async def close(self) -> None:
        """Close portals and sessions."""
        await self._server.close()
