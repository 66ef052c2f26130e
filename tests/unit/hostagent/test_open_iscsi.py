"""iscsiadm's interface record: made before a login, and again when a crash has taken it away.

Its stand-in keeps interfaces and nodes as files, as the real one does, and refuses what names an
interface that isn't there, or whose file another command is just writing.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hostagent import programs
from hostagent.attach.attacher import LunAddress
from hostagent.attach.open_iscsi import OpenIscsiAttacher, interface_of
from hostagent.errors import ToolError
from hostagent.records import RecordStore

NODE = "host1"
INTERFACE = interface_of(NODE)
ADDRESS = LunAddress("192.0.2.1:3260", "iqn.2026-11.io.trilun:ctl1.first", 0)
INITIATOR = "iqn.2026-11.io.trilun:host.host1"
DISK = "null"
"""What the stand-in for /sys calls the disk: something that is in every /dev."""

ISCSIADM = """\
#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >>calls
interface=$(expr "$*" : '.*-I \\([^ ]*\\)')
target=$(expr "$*" : '.*-T \\([^ ]*\\)')
file=iface-$interface
case "$*" in
"-m iface "*"-o new") [ ! -e "$file" ] || exit 15; : >"$file" ;;
"-m iface "*"-o update -n "*)
    name=$(expr "$*" : '.*-n \\([^ ]*\\)')
    others=$(grep -v "^$name = " "$file")
    : >"$file"
    sleep 0.02
    printf '%s\\n' "$others" "$name = ${*##* }" | grep . >"$file" ;;
"-m iface "*) cat "$file" || exit 6 ;;
*)
    [ -e "$file" ] || { echo "iscsiadm: Could not read iface $interface"; exit 6; }
    grep -q 'transport_name = tcp' "$file" || { echo "no transport for $interface"; exit 7; }
    case "$*" in
    *"-o new") : >"node-$target" ;;
    *--login) [ -e "node-$target" ] || exit 21; : >"session-$target" ;;
    *--logout) [ -e "session-$target" ] || exit 21; rm "session-$target" ;;
    *"-o delete") [ -e "node-$target" ] || exit 21; rm "node-$target" ;;
    esac ;;
esac
"""
RECORD = f"iface.transport_name = tcp\niface.initiatorname = {INITIATOR}\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the stand-in and its files."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "iscsiadm").write_text(ISCSIADM)
    (folder / "iscsiadm").chmod(0o755)
    monkeypatch.setattr(programs, "SEARCH_PATH", f"{folder}:{programs.SEARCH_PATH}")
    return folder


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    """/sys while the session is there."""
    session = tmp_path / "sys/class/iscsi_session/session1"
    (session / f"device/target1:0:0/1:0:0:{ADDRESS.lun}/block/{DISK}").mkdir(parents=True)
    (session / "targetname").write_text(ADDRESS.iqn + "\n")
    (session / "ifacename").write_text(INTERFACE + "\n")
    return tmp_path / "sys"


@pytest.fixture
def none(tmp_path: Path) -> Path:
    """/sys without any session."""
    return tmp_path / "none"


def attacher(tmp_path: Path, sys: Path) -> OpenIscsiAttacher:
    return OpenIscsiAttacher(NODE, tmp_path / "state", INITIATOR, timeout_s=10.0, sys=sys)


def test_the_interface_is_there_before_anything_names_it(
    host: Path, sys: Path, tmp_path: Path
) -> None:
    device = attacher(tmp_path, sys).attach("first-demo", ADDRESS, writable=True)
    assert device.path == Path("/dev") / DISK
    assert (host / f"iface-{INTERFACE}").read_text() == RECORD
    calls = (host / "calls").read_text().splitlines()
    assert calls[1] == f"-m iface -I {INTERFACE} -o new"
    named = f"-m node -T {ADDRESS.iqn} -p {ADDRESS.portal} -I {INTERFACE} "
    assert next(call for call in calls if call.startswith("-m node")) == f"{named}-o new"
    assert all(call.startswith(named) for call in calls if "-m node" in call)


def test_an_interface_that_is_there_is_taken_and_told_our_name(
    host: Path, sys: Path, tmp_path: Path
) -> None:
    (host / f"iface-{INTERFACE}").write_text(RECORD.replace(INITIATOR, "iqn.1999-01.old:name"))
    attacher(tmp_path, sys).attach("first-demo", ADDRESS, writable=True)
    assert (host / f"iface-{INTERFACE}").read_text() == RECORD


def test_another_agent_of_the_host_has_its_own_interface_and_sessions(
    host: Path, sys: Path, tmp_path: Path
) -> None:
    """Else it would log in with our name, and we would take its disk for ours."""
    mine = attacher(tmp_path, sys)
    its_name = "iqn.2026-11.io.trilun:host.host9"
    other = OpenIscsiAttacher("host9", tmp_path / "other", its_name, sys=sys)
    mine.attach("first-demo", ADDRESS, writable=True)
    record = {"portal": ADDRESS.portal, "iqn": ADDRESS.iqn, "lun": ADDRESS.lun}
    RecordStore(tmp_path / "other/open-iscsi").save("first-demo", record)
    assert other.attached("first-demo", ADDRESS) is None
    other.detach("first-demo")
    assert (host / f"iface-{INTERFACE}").read_text() == RECORD
    assert mine.attached("first-demo", ADDRESS) is not None


def test_every_node_has_an_interface_that_iscsiadm_takes() -> None:
    nodes = ["a", "a" * 57, "a" * 58, "a" * 63, "a" * 62 + "b"]
    names = {interface_of(node) for node in nodes}
    assert len(names) == len(nodes)
    assert max(map(len, names)) <= 64


@pytest.mark.parametrize("known", [True, False])
def test_volumes_are_let_go_at_once(host: Path, none: Path, tmp_path: Path, known: bool) -> None:
    """No command reads the record of the interface while another writes it."""
    mine = attacher(tmp_path, none)
    names = [f"{ADDRESS.iqn}-{number}" for number in range(4)]
    if known:
        (host / f"iface-{INTERFACE}").write_text(RECORD)
    for name in names:
        (host / f"node-{name}").touch()
        (host / f"session-{name}").touch()
        record = {"portal": ADDRESS.portal, "iqn": name, "lun": ADDRESS.lun}
        RecordStore(tmp_path / "state/open-iscsi").save(name[-1], record)
    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(lambda name: mine.detach(name[-1]), names))
    assert [path.name for path in host.iterdir() if path.name.startswith(("node", "session"))] == []


def test_a_detach_makes_the_interface_again(
    host: Path, sys: Path, none: Path, tmp_path: Path
) -> None:
    """A host that has crashed, or keeps nothing in /etc, knows the node and not its interface."""
    attacher(tmp_path, sys).attach("first-demo", ADDRESS, writable=True)
    (host / f"iface-{INTERFACE}").unlink()
    again = attacher(tmp_path, none)
    again.detach("first-demo")
    assert not (host / f"session-{ADDRESS.iqn}").exists()
    assert not (host / f"node-{ADDRESS.iqn}").exists()
    assert (host / f"iface-{INTERFACE}").read_text() == RECORD
    calls = len((host / "calls").read_text().splitlines())
    again.detach("first-demo")
    assert len((host / "calls").read_text().splitlines()) == calls, "nothing is left to detach"


def test_a_detach_where_all_of_it_is_gone(
    host: Path, sys: Path, none: Path, tmp_path: Path
) -> None:
    attacher(tmp_path, sys).attach("first-demo", ADDRESS, writable=True)
    for name in (f"iface-{INTERFACE}", f"node-{ADDRESS.iqn}", f"session-{ADDRESS.iqn}"):
        (host / name).unlink()
    attacher(tmp_path, none).detach("first-demo")
    assert attacher(tmp_path, sys).attached("first-demo", ADDRESS) is None


def test_other_failures_are_told_in_iscsiadms_words(host: Path, none: Path, tmp_path: Path) -> None:
    (host / "iscsiadm").write_text("#!/bin/sh\necho iscsiadm: no interface today; exit 6\n")
    with pytest.raises(ToolError, match=r"iscsiadm failed \(6\): iscsiadm: no interface today"):
        attacher(tmp_path, none).attach("first-demo", ADDRESS, writable=True)
