"""Sessions as the kernel lists them: names without an ACL, a file for each with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from targets.lio.sessions import Listed, addresses, parse_dynamic, parse_info
from targets.lio.tree import read_sessions

pytestmark = pytest.mark.plain

ONE, TWO = "iqn.2026-11.io.lab:one", "iqn.2026-11.io.lab:two"
NOBODY = f"No active iSCSI Session for Initiator Endpoint: {ONE}\n"


def info(name: str, *where: str, state: str = "TARG_SESS_STATE_LOGGED_IN") -> str:
    """What Linux 6.1 writes."""
    connections = "".join(
        f"CID: {cid}  Connection State: TARG_CONN_STATE_LOGGED_IN\n"
        f"   Address {address} TCP  StatSN: 0x00000a1b\n"
        for cid, address in enumerate(where)
    )
    return (
        f"InitiatorName: {name}\nInitiatorAlias: host one\n"
        "LIO Session ID: 3   ISID: 0x00023d000001  TSIH: 3  SessionType: Normal\n"
        f"Session State: {state}\n"
        "---------------------[iSCSI Session Values]-----------------------\n"
        "  CmdSN/WR  :  CmdSN/WC  :  ExpCmdSN  :  MaxCmdSN  :     ITT    :     TTT\n"
        " 0x00000010   0x00000010   0x00000014   0x00000093   0x00000000   0x00000007\n"
        "----------------------[iSCSI Connections]-------------------------\n" + connections
    )


def test_initiators_without_an_acl() -> None:
    assert parse_dynamic("") == []
    assert parse_dynamic("\0") == []
    assert parse_dynamic("iqn.a:1\niqn.b:2\niqn.a:1\n\0") == ["iqn.a:1", "iqn.b:2", "iqn.a:1"]


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ((), ""),
        (("192.0.2.7",), "192.0.2.7"),
        (("fe80::1%eth0",), "fe80::1%eth0"),
        (("2001:db8::7", "2001:db8:1::7"), "2001:db8::7, 2001:db8:1::7"),
        (("192.0.2.7", "192.0.2.7", "192.0.2.8"), "192.0.2.7, 192.0.2.8"),
    ],
)
def test_an_acls_session_and_its_connections(where: tuple[str, ...], told: str) -> None:
    assert parse_info(info(ONE, *where)) == (ONE, told)


def test_a_session_that_lost_its_connection_is_still_one() -> None:
    assert parse_info(info(ONE, state="TARG_SESS_STATE_FAILED")) == (ONE, "")


@pytest.mark.parametrize("text", ["", NOBODY, "\0", "InitiatorName: \n"])
def test_nobody(text: str) -> None:
    assert parse_info(text) is None


def test_an_alias_is_no_name_and_no_address() -> None:
    alias = f"x\nInitiatorName: {TWO}\n[iSCSI Connections]\n   Address 203.0.113.1 TCP"
    hostile = info(ONE, "192.0.2.7").replace("host one", alias)
    assert parse_info(hostile) == (ONE, "192.0.2.7")


def test_both_kinds_together() -> None:
    listed = Listed(f"{TWO}\n", {ONE: info(ONE, "192.0.2.7"), "iqn.away": NOBODY})
    assert addresses(listed) == {TWO: "", ONE: "192.0.2.7"}


def test_the_files_of_a_portal_group(tmp_path: Path) -> None:
    group = tmp_path / "tpgt_1"
    assert read_sessions(group) == Listed()
    (group / "acls" / ONE).mkdir(parents=True)
    (group / "dynamic_sessions").write_text(f"{TWO}\n")
    (group / "acls" / ONE / "info").write_text(NOBODY)
    (group / "acls" / TWO).mkdir()  # it goes while we look
    assert read_sessions(group) == Listed(f"{TWO}\n", {ONE: NOBODY, TWO: ""})
