"""Which initiator this host uses, and why.

Owns the decision for `kind = "auto"`. Must not attach anything. Fails with HostError when the
host has neither.
"""

from __future__ import annotations

import os
from pathlib import Path

from controller.service.config import secret_path
from hostagent.attach.attacher import Attacher
from hostagent.attach.open_iscsi import OpenIscsiAttacher
from hostagent.attach.qemu import PACKAGE, PROGRAM, QemuAttacher
from hostagent.config import AgentConfig
from hostagent.errors import HostError
from hostagent.programs import find_program

TRANSPORT = Path("/sys/class/iscsi_transport/tcp")


def choose_attacher(config: AgentConfig, transport: Path = TRANSPORT) -> tuple[Attacher, str]:
    """The initiator to use and the reason, in a sentence for the log."""
    kind: str = config.attach.kind
    why = "the configuration says so"
    if kind == "auto":
        kind, why = _decide(transport)
    chap = config.attach.chap
    timeout_s = config.attach.timeout_s
    if kind == "open-iscsi":
        attacher = OpenIscsiAttacher(
            config.node, config.state_dir / "attach", config.initiator_name, chap, timeout_s
        )
        return attacher, f"{kind}: {why}"
    if chap is not None and chap.mutual_user is not None:
        raise HostError(
            "the user-space initiator has no mutual CHAP",
            "use a kernel with the iSCSI initiator and attach kind 'open-iscsi'",
        )
    secret = None if chap is None else (chap.user, secret_path(chap.secret_file))
    directory = config.runtime_dir / "attach"
    return QemuAttacher(directory, config.initiator_name, secret, timeout_s), f"{kind}: {why}"


def _decide(transport: Path) -> tuple[str, str]:
    if not transport.exists():
        lacks = "the kernel has no iSCSI initiator (iscsi_tcp is not loaded)"
    elif os.geteuid() != 0:
        lacks = "only root may use the kernel's initiator"
    elif find_program("iscsiadm") is None:
        lacks = "open-iscsi is not installed"
    else:
        return "open-iscsi", "the kernel has the initiator"
    if find_program(PROGRAM) is None:
        raise HostError(
            f"this host can't attach LUNs: {lacks}, and {PROGRAM} is not installed",
            f"load iscsi_tcp and install open-iscsi, or install {PACKAGE}",
        )
    return "qemu", lacks
