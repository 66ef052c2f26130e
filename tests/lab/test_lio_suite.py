"""libiscsi's own suite through a lab host's kernel: what fails is the kernel's own answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from deploy.labs import needs
from deploy.labs.host import Host
from deploy.labs.one import one_host
from deploy.labs.problem import LabError
from tests.conformance.libiscsi_suite import REQUIRED, TOOL, Outcome, Verdict, table
from tests.lab.lio import IQN, PYTHON, ROOT, Files

SUITE_WITHIN_S = 1500.0
pytestmark = [pytest.mark.lab, pytest.mark.timeout(SUITE_WITHIN_S + 300)]

RESIDUALS = (
    *("Read10Invalid", "Read10Residuals", "Read12Residuals", "Read16Residuals"),
    *("Write10Residuals", "Write12Residuals", "Write16Residuals"),
    *("WriteVerify10Residuals", "WriteVerify12Residuals", "WriteVerify16Residuals"),
)
NOT_PASSED = {
    **{
        f"iSCSIResiduals.{test}": "the kernel doesn't compare the CDB's length for TCMU, and what "
        "is left of a write can't be said in the ring"
        for test in RESIDUALS
    },
    "iSCSIdatasn.iSCSIDataSnInvalid": "the kernel drops data with an old DataSN, and goes on",
    "MultipathIO.CompareAndWriteAsync": "there is no COMPARE AND WRITE yet, embedded neither",
}


@pytest.fixture
def host() -> Iterator[Host]:
    """One of its own: a suite that is made to break targets may break the kernel."""
    try:
        needs.check()
    except LabError as error:
        pytest.skip(str(error))
    if shutil.which(TOOL) is None:
        pytest.skip(f"{TOOL} is missing (Debian package libiscsi-bin)")
    with one_host("suite") as made:
        yield made


def test_nothing_fails_but_what_is_the_kernels(host: Host) -> None:
    files = Files(host)
    files.prepare()
    files.start()
    url = f"iscsi://127.0.0.1:3260/{IQN}/0"
    command = (str(PYTHON), "-m", "tests.lab.lio_suite", url, str(SUITE_WITHIN_S))
    ran = host.channel.run(*command, cwd=str(ROOT), timeout_s=SUITE_WITHIN_S + 60)
    outcomes: list[Outcome] = []
    for line in ran.stdout.decode(errors="replace").splitlines():
        verdict, test, detail = line.split("\t", 2)
        outcomes.append(Outcome(test, Verdict(verdict), detail))
    print(table(outcomes))
    failed = {each.test: each.detail for each in outcomes if each.verdict is Verdict.FAIL}
    assert failed.keys() <= NOT_PASSED.keys(), failed
    passed = {each.family for each in outcomes if each.verdict is Verdict.PASS}
    wanted = {*REQUIRED, "ProutReserve", "Reserve6"} - {"iSCSIResiduals", "iSCSIdatasn"}
    assert wanted <= passed, table(outcomes)
    assert files.active
    assert "Traceback" not in files.log
