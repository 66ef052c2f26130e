"""Whom a portal group lets in: what its ACLs in the kernel have to be.

Owns what the kernel does with ACLs behind our back. Pure. Fails never.

An open group makes an ACL for each initiator that logs in, shows none of them, and lets their
initiators in by them later on, open or not, until the group goes (Linux,
drivers/target/target_core_tpg.c, core_tpg_check_initiator_node_acl). An ACL that is removed ends
its initiator's session.
"""

from __future__ import annotations

from targets.lio.configfs import Folder
from targets.lio.wanted import Acl, PortalGroup
from targets.naming import is_iscsi_name


def has_to_go(found: Folder, wanted: PortalGroup) -> bool:
    """Whether a group has to be made anew, to let nobody in who isn't wanted."""
    attributes = found.folders.get("attrib", Folder())
    return bool(wanted.acls) and attributes.files.get("generate_node_acls") == "1"


def acls_of(found: Folder | None, wanted: PortalGroup) -> tuple[Acl, ...]:
    """The ACLs that a group shall have: an open one keeps what it has, as open as the rest."""
    if wanted.acls or found is None:
        return wanted.acls
    luns = {number: number for number in wanted.luns}
    names = sorted(filter(is_iscsi_name, found.folders.get("acls", Folder()).folders))
    return tuple(Acl(name, luns, chap=wanted.chap) for name in names)
