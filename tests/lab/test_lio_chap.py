"""CHAP through the kernel's target: who may log in, and whom an initiator believes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.labs.host import Host
from tests.lab.controller import IQN, NODE, Controller
from tests.lab.lio import NODE as FILES_NODE
from tests.lab.lio import Files, log_out

pytestmark = pytest.mark.lab

SECRET = "secret-of-hosts"
MUTUAL = "secret-of-ctl1"
CHAP = f"""
[target.chap]
user = "hosts"
secret_file = "credential:chap"
mutual_user = "{NODE}"
mutual_secret_file = "credential:chap-mutual"
"""
REFUSED, DISTRUSTED = 24, 19
"""iscsiadm(8): the target said no; the initiator did, which it calls a fatal error of a login."""


def log_in(host: Host, iqn: str = IQN, **auth: str) -> int:
    """iscsiadm's exit code of a login with these of `node.session.auth`."""
    node = f"iscsiadm -m node -T {iqn} -p 127.0.0.1:3260"
    script = f"{node} -o delete >/dev/null 2>&1 || true\n{node} -o new\n"
    for name, value in auth.items():
        script += f"{node} -o update -n node.session.auth.{name} -v {value}\n"
    return host.shell(f"{script}{node} --login", check=False).code


def reads(host: Host, iqn: str = IQN) -> bool:
    """Whether the disk is there and can be read; the session ends."""
    link = f"/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-{iqn}-lun-0"
    read = f"udevadm settle; dd if={link} of=/dev/null bs=1M count=8 iflag=direct status=none"
    read_all = host.shell(read, check=False).code == 0
    log_out(host)
    return read_all


@pytest.fixture(scope="module")
def controller(solo: Host) -> Iterator[Controller]:
    """Its secrets come by LoadCredential."""
    made = Controller(solo, more=CHAP, secrets={"chap": SECRET, "chap-mutual": MUTUAL})
    made.install()
    made.start()
    made.trilun("volume", "create", f"{NODE}/v", str(16 << 20))
    yield made
    log_out(solo)
    made.trilun("volume", "delete", f"{NODE}/v")
    made.remove()


@pytest.mark.parametrize(
    "auth",
    [
        {},
        {"authmethod": "CHAP", "username": "hosts", "password": "secret-of-others"},
        {"authmethod": "CHAP", "username": "others", "password": SECRET},
    ],
    ids=["nothing", "another secret", "another user"],
)
def test_who_does_not_know_the_secret_is_refused(
    controller: Controller, auth: dict[str, str]
) -> None:
    assert log_in(controller.host, **auth) == REFUSED
    assert "tcp: [" not in controller.host.run("iscsiadm", "-m", "session", check=False).text


def test_who_knows_it_is_let_in(controller: Controller) -> None:
    known = {"authmethod": "CHAP", "username": "hosts", "password": SECRET}
    assert log_in(controller.host, **known) == 0
    assert reads(controller.host)


@pytest.mark.parametrize(
    ("theirs", "code"), [(MUTUAL, 0), ("secret-of-ctl2", DISTRUSTED)], ids=["right", "wrong"]
)
def test_the_target_proves_itself_to_who_asks(
    controller: Controller, theirs: str, code: int
) -> None:
    ours = {"authmethod": "CHAP", "username": "hosts", "password": SECRET}
    mutual = {"username_in": NODE, "password_in": theirs}
    assert log_in(controller.host, **ours, **mutual) == code
    assert reads(controller.host) == (code == 0)


def test_files_have_a_secret_of_their_own(solo: Host) -> None:
    """`python -m targets.lio --chap-user`."""
    iqn = f"iqn.2026-11.io.trilun:{FILES_NODE}.f0"
    files = Files(solo, options=["--chap-user", "files", "--forget"], secret="secret-of-files")
    files.prepare("16M")
    files.start()
    try:
        assert log_in(solo, iqn) == REFUSED
        wrong = {"authmethod": "CHAP", "username": "files", "password": SECRET}
        assert log_in(solo, iqn, **wrong) == REFUSED
        assert log_in(solo, iqn, **{**wrong, "password": "secret-of-files"}) == 0
        assert reads(solo, iqn)
    finally:
        log_out(solo)
        files.stop()
