"""What the kernel's target should offer: backstores, targets, portals, LUNs, ACLs, CHAP.

Owns the model that the catalogue fills, and its limits. Must not know configfs. Fails with
`WantedError` for what the kernel would refuse or misread, before anything is changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from targets.naming import IQN_ROOT, is_iscsi_name

IQN_PREFIX = f"{IQN_ROOT}:"
BACKSTORE_PREFIX = "trilun-"
HBA = 747
"""The number of the one host bus adapter in configfs that holds all our backstores."""

MAX_LUN = 255
MAX_CONFIG_BYTES = 255
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")
_BACKSTORE = re.compile(r"[A-Za-z0-9._@-]+")


class WantedError(ValueError):
    """The kernel can't be asked for this."""


def _check(fine: object, what: str) -> None:
    if not fine:
        raise WantedError(what)


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which objects are ours: every other is left as it is.

    Several nodes on one host narrow both prefixes by the node's name.
    """

    iqn_prefix: str = IQN_PREFIX
    backstore_prefix: str = BACKSTORE_PREFIX

    def __post_init__(self) -> None:
        _check(self.iqn_prefix.startswith(IQN_PREFIX), f"targets begin with {IQN_PREFIX}")
        _check(
            self.backstore_prefix.startswith(BACKSTORE_PREFIX),
            f"backstores begin with {BACKSTORE_PREFIX}",
        )


@dataclass(frozen=True, slots=True)
class Chap:
    """Credentials; with the mutual pair the target proves itself, too."""

    user: str
    password: str = field(repr=False)
    mutual_user: str = ""
    mutual_password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        _check(self.user and self.password, "CHAP needs a user and a password")
        _check(
            bool(self.mutual_user) == bool(self.mutual_password),
            "mutual CHAP needs a user and a password",
        )
        for text in (self.user, self.password, self.mutual_user, self.mutual_password):
            # The kernel takes NULL for "none", one line, and 255 bytes.
            _check(not text.startswith("NULL"), "a CHAP value must not begin with NULL")
            _check(len(text.encode()) <= 255, "a CHAP value has at most 255 bytes")
            _check(text == text.strip() and text.isprintable(), "a CHAP value is one plain line")


@dataclass(frozen=True, slots=True)
class Portal:
    """An address that initiators connect to."""

    host: str
    """An IPv4 or IPv6 address, without brackets."""
    port: int = 3260

    def __post_init__(self) -> None:
        _check(re.fullmatch(r"[0-9A-Fa-f.:]+", self.host), f"not an address: {self.host!r}")
        _check(0 < self.port < 65536, f"not a port: {self.port}")

    @property
    def name(self) -> str:
        """The portal's folder in configfs."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Backstore:
    """One TCMU device."""

    name: str
    config: str
    """What the uio device is found by: `trilun/` and the volume's id. A backstore of the same
    name and another config is made anew, which cuts its initiators off."""
    size_bytes: int
    serial: str
    hw_max_sectors: int = 32768
    """With the two below: taken when the device is made, and left as it is afterwards."""
    ring_mb: int = 1
    data_mb: int = 64
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Files of the `attrib` folder."""

    def __post_init__(self) -> None:
        _check(_BACKSTORE.fullmatch(self.name), f"not a backstore's name: {self.name!r}")
        _check("/" in self.config, "a config needs a handler and a '/'")
        _check(
            re.fullmatch(r"[^\x00-\x20,:\x7f-\U0010ffff]+", self.config),
            "a config has no blank, no ',' and no ':'",
        )
        _check(len(self.config) <= MAX_CONFIG_BYTES, "a config has at most 255 bytes")
        _check(_PLAIN.fullmatch(self.serial), f"not a serial number: {self.serial!r}")
        _check(self.size_bytes > 0 and self.size_bytes % 512 == 0, "a size is whole blocks")
        _check(min(self.hw_max_sectors, self.ring_mb, self.data_mb) > 0, "a limit is positive")
        _check("dev_size" not in self.attributes, "the size is not an attribute here")


@dataclass(frozen=True, slots=True)
class Acl:
    """One initiator, by name, with the LUNs it sees."""

    initiator: str
    luns: Mapping[int, int]
    """Its LUN numbers, each to a LUN of the portal group."""
    read_only: frozenset[int] = frozenset()
    chap: Chap | None = None

    def __post_init__(self) -> None:
        _check(is_iscsi_name(self.initiator), f"not an iSCSI name: {self.initiator!r}")
        _check(all(0 <= lun <= MAX_LUN for lun in self.luns), "a LUN is a number from 0 to 255")
        _check(self.read_only <= set(self.luns), "a read-only LUN has to be mapped")


@dataclass(frozen=True, slots=True)
class PortalGroup:
    """What is offered through a set of portals."""

    luns: Mapping[int, str]
    """LUN numbers, each to a backstore's name."""
    portals: tuple[Portal, ...]
    """Leave out those whose address this host doesn't have; without any, the group is off."""
    acls: tuple[Acl, ...] = ()
    """None: every initiator may log in, and sees all LUNs. An initiator that has an ACL from
    before keeps it, since its session would end with it."""
    chap: Chap | None = None
    """For initiators without an ACL."""
    tag: int = 1

    def __post_init__(self) -> None:
        _check(0 < self.tag < 65536, f"not a portal group tag: {self.tag}")
        _check(all(0 <= lun <= MAX_LUN for lun in self.luns), "a LUN is a number from 0 to 255")
        _distinct((portal.name for portal in self.portals), "portal")
        _distinct((acl.initiator for acl in self.acls), "ACL")
        for acl in self.acls:
            _check(
                set(acl.luns.values()) <= set(self.luns),
                f"{acl.initiator} is given a LUN that the portal group doesn't have",
            )
        _check(not (self.acls and self.chap), "with ACLs, each has its own CHAP")
        with_chap = [acl for acl in self.acls if acl.chap is not None]
        _check(len(with_chap) in {0, len(self.acls)}, "CHAP is for all ACLs of a group, or none")


@dataclass(frozen=True, slots=True)
class Target:
    """One iSCSI target."""

    iqn: str
    groups: tuple[PortalGroup, ...]

    def __post_init__(self) -> None:
        _check(is_iscsi_name(self.iqn), f"bad IQN {self.iqn!r}")
        _distinct((group.tag for group in self.groups), "portal group")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Everything that this node offers through the kernel's target."""

    backstores: tuple[Backstore, ...] = ()
    targets: tuple[Target, ...] = ()
    owner: Ownership = Ownership()

    def __post_init__(self) -> None:
        _distinct((each.name for each in self.backstores), "backstore")
        _distinct((each.iqn for each in self.targets), "target")
        names = {each.name for each in self.backstores}
        for backstore in self.backstores:
            prefix = self.owner.backstore_prefix
            _check(backstore.name.startswith(prefix), f"{backstore.name} is not {prefix}…")
        for target in self.targets:
            prefix = self.owner.iqn_prefix
            _check(target.iqn.startswith(prefix), f"{target.iqn} is not {prefix}…")
            for group in target.groups:
                missing = set(group.luns.values()) - names
                _check(not missing, f"{target.iqn} has a LUN on {missing}, which isn't wanted")


def _distinct(names: Iterable[object], what: str) -> None:
    seen: set[object] = set()
    for name in names:
        _check(name not in seen, f"{what} {name} twice")
        seen.add(name)
