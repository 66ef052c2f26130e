"""Real initiators against the stand-alone target: libiscsi's tools, QEMU, libiscsi's suite."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conformance.libiscsi_suite import (
    PROFILES,
    REQUIRED,
    TOOL,
    Verdict,
    all_tests,
    run_profile,
    running_target,
    score,
    table,
)

pytestmark = pytest.mark.tools

QEMU = ("qemu-img", "qemu-io")
CHAP = {"TRILUN_CHAP_SECRET": "correct-horse", "TRILUN_MUTUAL_SECRET": "battery-staple"}


def need(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)} (libiscsi-bin, qemu-utils, qemu-block-extra)")


def run(*command: str) -> tuple[int, str]:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def qemu_io(url: str, *commands: str) -> str:
    arguments = [part for command in commands for part in ("-c", command)]
    code, said = run("qemu-io", "-f", "raw", *arguments, url)
    assert code == 0, said
    assert "failed" not in said, said
    return said


def test_libiscsi_tools() -> None:
    need("iscsi-ls", "iscsi-inq", "iscsi-readcapacity16")
    with running_target(size_bytes=64 << 20) as url:
        portal = url.rsplit("/", 2)[0]
        code, said = run("iscsi-ls", "-s", portal)
        assert (code, "DIRECT_ACCESS" in said) == (0, True), said
        code, said = run("iscsi-inq", url)
        assert (code, "Vendor:TRILUN" in said) == (0, True), said
        for page in ("0x00", "0x80", "0x83", "0xb0", "0xb1", "0xb2"):
            code, said = run("iscsi-inq", "-e", "1", "-c", page, url)
            assert code == 0, said
        code, said = run("iscsi-readcapacity16", url)
        assert (code, "Total size:67108864" in said) == (0, True), said


@pytest.mark.parametrize("digest", ["NONE", "CRC32C"])
def test_qemu_writes_and_reads_back(digest: str) -> None:
    need(*QEMU)
    with running_target() as url:
        if digest == "CRC32C":
            host, port, iqn = url.removeprefix("iscsi://").replace(":", "/", 1).split("/")[:3]
            url = (
                f"json:{{'driver':'raw','file':{{'driver':'iscsi','transport':'tcp','portal':"
                f"'{host}:{port}','target':'{iqn}','lun':0,'header-digest':'crc32c'}}}}"
            ).replace("'", '"')
            code, said = run(
                "qemu-io", "-c", "write -P 9 0 1M", "-c", "read -P 9 0 1M", "-c", "flush", url
            )
            assert (code, "failed" in said) == (0, False), said
            return
        qemu_io(
            url, "write -P 1 0 4k", "write -P 2 4k 8M", "write -P 3 63M 1M", "flush",
            "read -P 1 0 4k", "read -P 2 4k 8M", "read -P 3 63M 1M", "read -P 0 16M 8M",
            "write -z -u 4k 1M", "discard 2M 1M", "read -P 0 4k 1M", "read -P 2 2000k 48k",
            "write -f -P 4 12288 512", "read -P 4 12288 512",
        )  # fmt: skip


def test_qemu_copies_an_image(tmp_path: Path) -> None:
    need(*QEMU)
    image = tmp_path / "source.raw"
    image.write_bytes(bytes(range(256)) * (64 << 12))
    with running_target(size_bytes=64 << 20) as url:
        code, said = run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), url)
        assert code == 0, said
        code, said = run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), url)
        assert code == 0, said
        qemu_io(url, "write -P 99 1M 4k")
        code, said = run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), url)
        assert code == 1, said


def test_a_read_only_unit_refuses_writes() -> None:
    need(*QEMU)
    with running_target("--read-only") as url:
        code, said = run("qemu-io", "-f", "raw", "-c", "write 0 4k", url)
        assert (code, "protected" in said.lower() or "read-only" in said.lower()) == (1, True), said
        code, said = run("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 4k", url)
        assert code == 0, said


@pytest.mark.parametrize(
    ("user", "secret", "mutual", "good"),
    [
        ("host", "correct-horse", None, True),
        ("host", "wrong-horse", None, False),
        ("nobody", "correct-horse", None, False),
        ("host", "correct-horse", "battery-staple", True),
        ("host", "correct-horse", "wrong-staple", False),
        (None, None, None, False),
    ],
)
def test_chap(user: str | None, secret: str | None, mutual: str | None, good: bool) -> None:
    need("iscsi-inq")
    with running_target("--chap-user", "host", "--mutual-user", "target", environment=CHAP) as url:
        if user is not None:
            url = url.replace("//", f"//{user}%{secret}@")
        if mutual is not None:
            url += f"?target_user=target&target_password={mutual}"
        code, said = run("iscsi-inq", url)
        assert (code == 0) is good, said


def test_scoring_reads_the_log() -> None:
    summary = "   tests   1   1   {}   {}   0\n"
    body = (
        "Suite: A\n  Test: B ...    hello\n{}passed    Send PRIN/READ_KEYS\n    [SKIPPED] later\n"
    )
    assert score("A.B", body.format("") + summary.format(1, 0)).verdict is Verdict.PASS
    skipped = body.format("    [SKIPPED] not implemented\n") + summary.format(1, 0)
    assert score("A.B", skipped).verdict is Verdict.SKIP
    assert score("A.B", body.format("") + summary.format(0, 1)).verdict is Verdict.FAIL
    assert score("A.B", "crashed").verdict is Verdict.FAIL


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_libiscsi_suite(profile: object) -> None:
    need(TOOL)
    known = next(each for each in PROFILES if each is profile)
    outcomes = run_profile(known, [t for t in all_tests() if t.split(".")[0] in REQUIRED])
    failed = [outcome for outcome in outcomes if outcome.verdict is Verdict.FAIL]
    assert not failed, "\n".join(f"{each.test}: {each.detail}" for each in failed)
    passed = {each.family for each in outcomes if each.verdict is Verdict.PASS}
    expected = set(REQUIRED) if known.families is None else {"Mandatory", "Inquiry", "Read10"}
    assert passed == expected, table(outcomes)
