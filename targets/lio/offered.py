"""One logical unit on its way to initiators: its names, its stage, who is logged in.

Owns the names of its objects in configfs. Must not change them. Fails with `WantedError` for
names that the kernel would refuse.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from targets.lio.configfs import Folder
from targets.lio.serving import Serving
from targets.lio.sessions import Listed, Seen, addresses
from targets.lio.wanted import (
    Acl,
    Backstore,
    Chap,
    Ownership,
    Portal,
    PortalGroup,
    Target,
    Wanted,
)
from targets.lun import UnitAttention
from targets.scsi.device import DeviceServer

LUN = 0
TAG = 1

CMD_TIME_OUT_S = 68
"""After this time without an answer the kernel fails a command to its initiator.

open-iscsi gives a command 30 s, and 30 s more while its pings are answered; then it asks to abort
it, and waits 15 s for that. In between the command has to end: as an abort that worked, after
which it is sent again, for up to three minutes in all. With 40 s it ends as an error (measured,
Linux 6.1: a daemon that was away for 110 s was a pause).
"""
QFULL_TIME_OUT_S = 10
"""How long a command waits for room in the ring before its initiator hears TASK SET FULL."""
ATTRIBUTES = {"cmd_time_out": str(CMD_TIME_OUT_S), "qfull_time_out": str(QFULL_TIME_OUT_S)}

_UIO_PREFIX = "tcm-user/"


class Stage(enum.Enum):
    """How far it is offered. Each is reached by one pass over configfs."""

    OFFERED = "offered"
    LEAVING = "leaving"
    """No target any more; its device is still served, until nothing can reach it."""
    GONE = "gone"


@dataclass(eq=False, slots=True)
class Offered:
    """A logical unit as LUN 0 of a target of its own."""

    iqn: str
    name: str
    """Of its backstore."""
    config: str
    server: DeviceServer
    initiators: tuple[str, ...] = ()
    """Those that may log in; none: every initiator may."""
    stage: Stage = Stage.OFFERED
    serving: Serving | None = None
    lost: bool = False
    """Its device or its ring was lost while it was served."""
    blocked: bool = False
    """Served, and the kernel has still to be told not to hold commands back."""
    up: bool = False
    """Initiators can find it."""
    refusal: str = ""
    """Why they can't, where the kernel refused this one: a sentence with the next step."""
    attention_due: bool = False
    """Its initiators have still to hear that something changed."""
    seen: Mapping[str, Seen] = field(default_factory=dict)
    """Initiators that were logged in when the kernel was asked last."""
    being_cut: bool = False
    """A part of its target is being removed: whoever looks there may have to wait for that."""

    @property
    def target_path(self) -> str:
        """Its target's folder in configfs."""
        return f"iscsi/{self.iqn}"

    @property
    def lun_path(self) -> str:
        """Its LUN's folder."""
        return f"{self.target_path}/tpgt_{TAG}/lun/lun_{LUN}"

    def stands_on(self, path: str) -> bool:
        """Whether it can't be there when a step at `path` was refused."""
        if path.startswith("core/"):
            return path.count("/") == 1 or path.endswith(f"/{self.name}")
        return path in {"core", "iscsi", self.target_path}

    def portal_path(self, portal: Portal) -> str:
        """A portal's folder."""
        return f"{self.target_path}/tpgt_{TAG}/np/{portal.name}"

    @property
    def group_path(self) -> str:
        """Its portal group's folder, which lists its initiators."""
        return f"{self.target_path}/tpgt_{TAG}"

    def note(self, listed: Listed, now_s: float) -> None:
        """Take what the kernel lists as `seen`."""
        self.seen = {
            name: Seen(name, address, self.seen[name].since_s if name in self.seen else now_s)
            for name, address in addresses(listed).items()
        }

    def cut_off_by(self, initiators: tuple[str, ...]) -> list[Seen]:
        """Those of `seen` whose session ends when only these may log in (none: all may).

        From "all" to some that is every one. The kernel keeps an ACL for each initiator that was
        ever let in that way, lists none of them, and lets them in again; they go with the portal
        group only (Linux, drivers/target/target_core_tpg.c).
        """
        found = self.seen.values() if initiators else ()
        return [
            each
            for each in found
            if not self.initiators or each.initiator.lower() not in initiators
        ]

    def attention(self, attention: UnitAttention) -> None:
        """Something changed: the next command of any initiator hears what; each has to be told."""
        self.server.attention(attention)
        self.attention_due = True

    def backstore(self) -> Backstore:
        """What it wants of the kernel."""
        lu = self.server.unit.lu
        return Backstore(
            self.name, self.config, lu.size_bytes, lu.identity.serial, attributes=ATTRIBUTES
        )

    def target(self, portals: tuple[Portal, ...], chap: Chap | None) -> Target:
        """The target that shows it."""
        acls = tuple(Acl(each, {LUN: LUN}, chap=chap) for each in self.initiators)
        group = PortalGroup({LUN: self.name}, portals, acls, None if acls else chap, TAG)
        return Target(self.iqn, (group,))


def wanted_of(
    offers: Iterable[Offered],
    owner: Ownership,
    portals: tuple[Portal, ...],
    chap: Chap | None,
) -> Wanted:
    """Everything that is offered now."""
    all_of_them = list(offers)
    return Wanted(
        tuple(each.backstore() for each in all_of_them if each.stage is not Stage.GONE),
        tuple(each.target(portals, chap) for each in all_of_them if each.stage is Stage.OFFERED),
        owner,
    )


def bound_portals(
    portals: tuple[Portal, ...], present: frozenset[str], tree: Folder, owner: Ownership
) -> tuple[Portal, ...]:
    """Those portals whose address is there, or that the kernel listens on already.

    A portal that has lost its address is kept: its sessions go on when the address comes back,
    which they could not behind a portal that was removed.
    """
    iscsi = tree.folders.get("iscsi", Folder())
    made: set[str] = set()
    for iqn, target in iscsi.folders.items():
        np = target.find(f"tpgt_{TAG}/np") if iqn.startswith(owner.iqn_prefix) else None
        made |= set(np.folders) if np else set()
    return tuple(each for each in portals if each.host in present or each.name in made)


@dataclass(frozen=True, slots=True)
class Found:
    """A device of ours, as its uio node names it."""

    node: str
    path: str
    """Of its backstore in configfs."""
    name: str
    config: str


def our_devices(uio_names: dict[str, str], owner: Ownership) -> list[Found]:
    """All devices that are ours, whether they are wanted or not."""
    found: list[Found] = []
    for uio_name, node in uio_names.items():
        hba, _, rest = uio_name.removeprefix(_UIO_PREFIX).partition("/")
        name, _, config = rest.partition("/")
        if name.startswith(owner.backstore_prefix):
            found.append(Found(node, f"core/user_{hba}/{name}", name, config))
    return found
