"""Runs libiscsi's conformance suite against a target and scores its log.

Owns the LUN profiles and the reading of the log: a test with a `[SKIPPED]` line was not run,
whatever CUnit counts. One process a test, because in libiscsi 1.19 a test leaves a hook behind
that corrupts the CDBs of all later ones on thin units. `python -m
tests.conformance.libiscsi_suite` prints a table.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

IQN = "iqn.2026-11.io.trilun:files"
TOOL = "iscsi-test-cu"
TEST_S = 60
REQUIRED = (
    "Mandatory", "Inquiry", "ModeSense6", "TestUnitReady", "ReadCapacity10", "ReadCapacity16",
    "Read6", "Read10", "Read12", "Read16", "Write10", "Write12", "Write16",
    "WriteSame10", "WriteSame16", "Unmap",
    "iSCSIcmdsn", "iSCSIdatasn", "iSCSIResiduals", "iSCSITMF",
)  # fmt: skip
"""Families in which no test may fail."""


class Verdict(enum.Enum):
    """What became of a test."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Outcome:
    """One test's result, with the log lines that explain it."""

    test: str
    verdict: Verdict
    detail: str = ""

    @property
    def family(self) -> str:
        """The suite the test belongs to."""
        return self.test.split(".")[0]


@dataclass(frozen=True)
class Profile:
    """A kind of unit to run on, and which tests it is for (None: all)."""

    name: str
    arguments: tuple[str, ...] = ()
    urls: int = 1
    families: tuple[str, ...] | None = None


PROFILES = (
    Profile("full", urls=2),
    Profile("read-only", ("--read-only",), families=("ReadOnly", "Mandatory", "Inquiry", "Read10")),
)


@contextlib.contextmanager
def running_target(
    *arguments: str,
    size_bytes: int = 64 << 20,
    environment: dict[str, str] | None = None,
) -> Iterator[str]:
    """A stand-alone target over a fresh file; yields the URL of LUN 0."""
    with tempfile.TemporaryDirectory(prefix="trilun-conformance-") as folder:
        path = Path(folder) / "lun0.img"
        with path.open("wb") as file:
            file.truncate(size_bytes)
        command = [sys.executable, "-m", "targets.iscsi", "--file", str(path), *arguments]
        with (
            (Path(folder) / "errors").open("w+") as errors,
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | (environment or {}),
            ) as process,
        ):
            try:
                assert process.stdout is not None
                first, url = process.stdout.readline(), process.stdout.readline().strip()
                if not first.startswith("listening on "):
                    errors.seek(0)
                    raise RuntimeError(f"the target did not start: {errors.read()}")
                yield url
                if process.poll() is not None:
                    errors.seek(0)
                    raise RuntimeError(f"the target died: {errors.read()}")
            finally:
                process.terminate()
                process.wait(10)
            errors.seek(0)
            if "Traceback" in (said := errors.read()):
                raise RuntimeError(f"the target had an internal error: {said}")


def all_tests() -> list[str]:
    """`Family.Test` of every test the tool has."""
    listed = subprocess.run([TOOL, "-l"], capture_output=True, text=True, check=False, timeout=20)
    found = re.findall(r"^ALL\.(\w+\.[\w\-]+)\s*$", listed.stdout + listed.stderr, re.MULTILINE)
    return list(dict.fromkeys(found))


DEFECTS = {
    "iSCSITMF.LUNResetSimpleAsync": (
        "CU_ASSERT_EQUAL(reconnect_succeeded,1)",
        "libiscsi 1.19 checks the reset's result before it waits for it",
    ),
    "GetLBAStatus.UnmapSingle": (
        'CU_FAIL("[FAILED] GETLBASTATUS command: " '  # noqa: ISC004 - one long assertion
        '"lba offset in first descriptor does not " "match request.")',
        "libiscsi 1.19 asks for LBA n+1 and expects a descriptor that starts a physical block on",
    ),
}
"""Tests that can't pass on any target: the one assertion that is wrong, and why."""


def score(test: str, log: str) -> Outcome:
    """Read one test's log.

    What the tool prints on its way out, after its own last look at reservations, is no part
    of the test.
    """
    summary = re.search(r"^\s*tests\s+\d+\s+(\d+)\s+\d+\s+(\d+)", log, re.MULTILINE)
    failures = re.findall(r"^\s+\d+\. .*? - (.*?)\s*(?:Send PRIN.*)?$", log, re.MULTILINE)
    if test in DEFECTS and failures == [DEFECTS[test][0]]:
        return Outcome(test, Verdict.SKIP, DEFECTS[test][1])
    if summary is None or int(summary[2]) or int(summary[1]) != 1:
        notable = [line.strip() for line in log.splitlines() if "[FAILED]" in line]
        return Outcome(test, Verdict.FAIL, " | ".join((failures + notable)[:3]) or log[-300:])
    body = log[log.find("Suite: ") :].partition("passed    Send PRIN/READ_KEYS")[0]
    skipped = [line.strip() for line in body.splitlines() if "[SKIPPED]" in line]
    if skipped:
        return Outcome(test, Verdict.SKIP, skipped[0])
    return Outcome(test, Verdict.PASS)


def run_test(test: str, urls: list[str], within_s: float = TEST_S) -> Outcome:
    """Run one test in a process of its own."""
    command = [TOOL, "-d", "-S", "-v", "-V", "-t", f"ALL.{test}", *urls]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=within_s,
        )
    except subprocess.TimeoutExpired:
        return Outcome(test, Verdict.FAIL, f"no end within {within_s:g} s")
    return score(test, done.stdout)


def run_profile(profile: Profile, tests: Iterable[str]) -> list[Outcome]:
    """Run the profile's share of `tests` against a target of its own."""
    with running_target(*profile.arguments) as url:
        return [
            run_test(test, [url] * profile.urls)
            for test in tests
            if profile.families is None or test.split(".")[0] in profile.families
        ]


def table(outcomes: Iterable[Outcome]) -> str:
    """Family, pass, fail, skip; one line each and a total."""
    counts: dict[str, Counter[Verdict]] = {}
    for outcome in outcomes:
        for row in (outcome.family, "total"):
            counts.setdefault(row, Counter())[outcome.verdict] += 1
    total = counts.pop("total", Counter())
    lines = [f"{'family':24}{'pass':>6}{'fail':>6}{'skip':>6}"]
    for row, count in [*counts.items(), ("total", total)]:
        numbers = "".join(f"{count[verdict]:6}" for verdict in Verdict)
        lines.append(f"{row:24}{numbers}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Print a table for each profile; arguments choose families. 1 when anything failed."""
    if shutil.which(TOOL) is None:
        print(f"{TOOL} is missing (Debian package libiscsi-bin)")
        return 2
    tests = [each for each in all_tests() if not arguments or each.split(".")[0] in arguments]
    failed = 0
    for profile in PROFILES:
        outcomes = run_profile(profile, tests)
        print(f"\nprofile {profile.name}\n{table(outcomes)}")
        for outcome in outcomes:
            if outcome.verdict is not Verdict.PASS:
                print(f"{outcome.verdict.value} {outcome.test}: {outcome.detail}")
            failed += outcome.verdict is Verdict.FAIL
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
