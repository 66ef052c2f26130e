"""The kernel's target (LIO) as this controller's front end.

Owns the binding of `controller.exports.Exporter` to `targets.lio`, and the names of our objects
in the kernel. Must not know pairs. Fails with RejectedError where a host or the kernel is in the
way, ConfigError for a configuration that the kernel can't be asked for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import SessionInfo
from controller.service.config import ConfigError, Endpoint
from controller.volume.volume import Volume
from targets.iscsi.chap import ChapCredentials
from targets.lio.passes import LioSettings
from targets.lio.sessions import Seen
from targets.lio.target import LioError, LioTarget, TargetInUseError
from targets.lio.wanted import BACKSTORE_PREFIX, Chap, Ownership, Portal, WantedError
from targets.lun import UnitAttention
from targets.naming import target_prefix

HANDLER = "trilun"


def lio_settings(
    node: str, listen: Iterable[Endpoint], chap: ChapCredentials | None
) -> LioSettings:
    """What the kernel is asked for; raises ConfigError, one line an error."""
    errors: list[str] = []
    portals: list[Portal] = []
    for endpoint in listen:
        try:
            host = str(ipaddress.ip_address(endpoint.host))
            portals.append(Portal(host, endpoint.port))
        except (ValueError, WantedError):
            errors.append(
                f"target.listen: {endpoint}: the kernel's target needs an IP address and a port"
            )
    credentials: Chap | None = None
    if chap is not None:
        try:
            credentials = Chap(
                chap.user, chap.secret, chap.mutual_user or "", chap.mutual_secret or ""
            )
        except WantedError as error:
            errors.append(f"target.chap: {error}")
    if errors:
        raise ConfigError(errors)
    # '@' can't be part of a node's name: no node takes another's backstores for its own.
    owner = Ownership(target_prefix(node), f"{BACKSTORE_PREFIX}{node}@")
    return LioSettings(owner, tuple(portals), credentials)


class LioExporter:
    """One target a volume, in the kernel."""

    def __init__(self, target: LioTarget, settings: LioSettings) -> None:
        self._target = target
        self._settings = settings
        self._portals = [portal.name for portal in settings.portals]

    @property
    def portals(self) -> list[str]:
        """Addresses initiators connect to."""
        return self._portals

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as it should be, a sentence each."""
        return self._target.problems

    def on_change(self, changed: Callable[[], None]) -> None:
        """Have `changed` called when `problems` are others."""
        self._target.changed = changed

    def offer(self, iqn: str, volume: Volume, initiators: Sequence[str]) -> None:
        """Export a volume; `ready` waits for it."""
        volume_id = volume.identity.naa.hex()
        name = f"{self._settings.owner.backstore_prefix}{volume_id}"
        self._target.add(iqn, name, f"{HANDLER}/{volume_id}", volume, tuple(initiators))

    async def settle(self) -> None:
        """Begin to make the kernel's configuration what was offered; see `held_up`."""
        await self._target.settle()

    @property
    def held_up(self) -> tuple[str, ...]:
        """Why hosts can't find all that is offered, a sentence each; see `LioTarget`."""
        return self._target.held_up

    async def another_pass(self) -> None:
        """Return when it was tried again."""
        await self._target.next_pass()

    async def ready(self, iqn: str) -> None:
        """Return when initiators can find a volume, or when that takes too long."""
        try:
            await self._target.ready(iqn)
        except LioError as error:
            why, _, step = str(error).partition("; ")
            raise RejectedError(Code.IO_ERROR, why, step) from error

    def trouble(self, iqn: str) -> str:
        """Why initiators can't find a volume now."""
        return self._target.trouble(iqn)

    async def withdraw(self, iqn: str, *, force: bool) -> None:
        """Stop exporting; a repeated call finds nothing to do."""
        try:
            await self._target.remove(iqn, force=force)
        except TargetInUseError as error:
            raise RejectedError(
                Code.IN_USE, f"an initiator is logged in to {iqn}", "log it out first"
            ) from error
        except LioError as error:
            raise RejectedError(
                Code.IO_ERROR, f"the kernel's target did not let go of {iqn}", str(error)
            ) from error

    async def withdraw_all(self) -> None:
        """Let hosts wait for a restart; returns when no command is under way.

        Sessions, targets and devices stay, and each device answers BUSY: hosts repeat what they
        want until the next start serves it, and see no error. Removing the targets would end
        sessions, and leave it to each initiator how long it looks for a target that isn't there.
        """
        await self._target.rest()

    def sessions(self, iqn: str) -> list[SessionInfo]:
        """Who is logged in; the kernel tells the addresses of those that are in a list."""
        return self._infos(iqn, self._target.sessions(iqn))

    def _infos(self, iqn: str, found: list[Seen]) -> list[SessionInfo]:
        lost = self._target.lost_writes(iqn)
        return [
            SessionInfo(
                initiator=each.initiator,
                address=each.address,
                since_s=each.since_s,
                lost_writes=lost,
            )
            for each in found
        ]

    def cut_off_by(self, iqn: str, initiators: Sequence[str]) -> list[SessionInfo]:
        """Those that aren't in the list; all of them where every initiator was let in before."""
        return self._infos(iqn, self._target.cut_off_by(iqn, tuple(initiators)))

    async def allow(self, iqn: str, initiators: Sequence[str]) -> None:
        """Returns when the kernel has the list."""
        try:
            await self._target.allow(iqn, tuple(initiators))
        except LioError as error:
            raise RejectedError(
                Code.IO_ERROR,
                f"the list is kept, but the kernel's target has not taken it yet: {error}",
                "trilun status says when that is over; it is tried again until then",
            ) from error

    def attention(self, iqn: str, attention: UnitAttention) -> None:
        """Tell initiators that something changed."""
        self._target.attention(iqn, attention)

    def grown(self, iqn: str) -> None:
        """The kernel is told the new size, then initiators are."""
        del iqn
        self._target.size_changed()

    async def close(self) -> None:
        """Let go of devices and sockets."""
        await self._target.close()
