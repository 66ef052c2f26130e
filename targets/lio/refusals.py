"""What the kernel refused, as a sentence with a next step.

Owns the words, and which later steps must not be taken behind a refused one. Must not touch
the tree. Fails never.
"""

from __future__ import annotations

import errno
import re

from targets.lio.configfs import Kind, Operation

_TARGET = re.compile(r"iscsi/[^/]+")
_BACKSTORE = re.compile(r"core/[^/]+/[^/]+")
_PORTAL = re.compile(r"iscsi/([^/]+)/tpgt_\d+/np/([^/]+)")


def portal_of(operation: Operation) -> str | None:
    """The portal that a step would make."""
    found = _PORTAL.fullmatch(operation.path) if operation.kind is Kind.MAKE else None
    return found[2] if found else None


def blocked_by(operation: Operation) -> str:
    """The path beneath which nothing more may be done once `operation` was refused.

    A target whose CHAP could not be set must not be enabled. A portal stands for itself.
    """
    if portal_of(operation) is not None:
        return operation.path
    for pattern in (_TARGET, _BACKSTORE):
        found = pattern.match(operation.path)
        if found:
            return found[0]
    return operation.path


def explain(operation: Operation, error: OSError) -> str:
    """One sentence and the next step."""
    portal = portal_of(operation)
    if portal is not None:
        return _explain_portal(portal, error)
    path, number = operation.path, error.errno
    if operation.kind is Kind.MAKE and re.fullmatch(_TARGET, path):
        name = path.partition("/")[2]
        return (
            f"the kernel refuses the name {name} ({error.strerror}); choose a plainer volume name"
        )
    if number == errno.EPERM and "/auth/" in path:
        return (
            "the kernel takes CHAP secrets from CAP_SYS_ADMIN alone; run as root, or install "
            "systemd/lio/chap.conf beside the unit"
        )
    if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return (
            f"no right to change {path} ({error.strerror}); run as root, or with "
            "CAP_DAC_OVERRIDE and a writable /sys/kernel/config"
        )
    if operation.kind is Kind.MAKE and path == "iscsi":
        return f"the kernel has no iSCSI target ({error.strerror}); modprobe iscsi_target_mod"
    if operation.kind is Kind.MAKE and path.startswith("core/user_"):
        return f"the kernel can't make {path} ({error.strerror}); modprobe target_core_user"
    if operation.kind is Kind.REMOVE and number in {errno.EBUSY, errno.ENOTEMPTY}:
        return f"{path} is in use by something that isn't ours; look for links to it in configfs"
    if number == errno.ENOMEM:
        return f"the kernel has no memory for {path}; free some"
    return f"the kernel refuses to {operation!r} ({error.strerror}); its reason is in dmesg"


def _explain_portal(name: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"portal {name}: another program listens there; stop it, or change [target] listen"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"portal {name}: this host has no such address; add it, or change [target] listen"
    return f"portal {name}: {error.strerror}; its reason is in dmesg"
