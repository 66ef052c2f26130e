"""What the kernel refused: the sentence, and what must not follow."""

from __future__ import annotations

import errno
import os

import pytest

from targets.lio.configfs import Kind, Operation
from targets.lio.refusals import blocked_by, explain

IQN = "iqn.2026-11.io.trilun:n.v"
TPG = f"iscsi/{IQN}/tpgt_1"
SECRET = Operation(Kind.WRITE, f"{TPG}/auth/password", "s3cret", secret=True)
PORTAL = Operation(Kind.MAKE, f"{TPG}/np/10.0.0.1:3260")


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("operation", "number", "words"),
    [
        (PORTAL, errno.EADDRINUSE, "portal 10.0.0.1:3260: another program listens there; stop it"),
        (PORTAL, errno.EADDRNOTAVAIL, "this host has no such address; add it"),
        (PORTAL, errno.EINVAL, "dmesg"),
        (Operation(Kind.MAKE, f"iscsi/{IQN}"), errno.EINVAL, f"refuses the name {IQN}"),
        (Operation(Kind.MAKE, "iscsi"), errno.ENOENT, "modprobe iscsi_target_mod"),
        (Operation(Kind.MAKE, "core/user_747"), errno.EINVAL, "modprobe target_core_user"),
        (Operation(Kind.MAKE, "core/user_747/x"), errno.EACCES, "run as root"),
        (Operation(Kind.REMOVE, "core/user_747/x"), errno.EBUSY, "something that isn't ours"),
        (Operation(Kind.WRITE, "core/user_747/x/enable"), errno.ENOMEM, "free some"),
        (SECRET, errno.EIO, "dmesg"),
        (SECRET, errno.EPERM, "CAP_SYS_ADMIN alone; run as root, or install systemd/lio/chap.conf"),
    ],
)
def test_a_sentence_with_a_next_step(operation: Operation, number: int, words: str) -> None:
    said = explain(operation, refused(number))
    assert words in said
    assert ";" in said
    assert "s3cret" not in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        (SECRET, f"iscsi/{IQN}"),
        (PORTAL, PORTAL.path),
        (Operation(Kind.REMOVE, PORTAL.path), f"iscsi/{IQN}"),
        (Operation(Kind.WRITE, "core/user_747/x/attrib/y"), "core/user_747/x"),
        (Operation(Kind.MAKE, "iscsi"), "iscsi"),
        (Operation(Kind.MAKE, "core/user_747"), "core/user_747"),
    ],
)
def test_what_a_refusal_blocks(operation: Operation, path: str) -> None:
    """A target is not enabled behind a refused step; a portal keeps no other from being made."""
    assert blocked_by(operation) == path
