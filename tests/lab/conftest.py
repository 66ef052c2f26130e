"""Fixtures of the lab's tests: hosts with kernels of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from deploy.labs import data_sets, needs, roles
from deploy.labs.host import Host
from deploy.labs.lab import Lab, directory_of_choice
from deploy.labs.one import one_host
from deploy.labs.problem import LabError
from deploy.labs.roles import DataSet
from deploy.labs.terminated import unwound

LAST_LINES = 25
LONGEST = 300


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Behind a failure, what its hosts said last: their kernels, and their journals."""
    report = yield
    if report.failed:
        used = [item.funcargs.get(name) for name in ("lab", "solo")]
        hosts = [host for lab in used if isinstance(lab, Lab) for host in lab.hosts.values()]
        for host in [*hosts, *(host for host in used if isinstance(host, Host))]:
            power = "" if host.powered else f", which is without power{host.ending}"
            title = f"the last that {host.name} said{power}"
            report.sections.append((title, _last_lines(host.console)))
    return report


def _last_lines(console: Path) -> str:
    if not console.exists():
        return "nothing"
    lines = console.read_text(errors="replace").splitlines()[-LAST_LINES:]
    return "\n".join(line[:LONGEST] for line in lines)


@pytest.fixture(scope="session")
def solo() -> Iterator[Host]:
    """One booted host for all tests of the session that ask for it."""
    try:
        needs.check()
    except LabError as error:
        pytest.skip(str(error))
    with one_host() as host:
        yield host


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Four hosts that are up, in a directory of their own; gone at the end of the session.

    A lab that is up in the directory that TRILUN_LAB names is used instead, and left.
    """
    try:
        needs.check(whole_lab=True)
    except LabError as error:
        pytest.skip(str(error))
    if "TRILUN_LAB" in os.environ:
        yield Lab.open(directory_of_choice())
        return
    with unwound():
        directory = Path(tempfile.mkdtemp(prefix="trilun-lab-", dir="/var/tmp"))
        try:
            yield Lab.up(directory, list(roles.USUAL), os.environ.get("TRILUN_TARGET", "lio"))
        finally:
            Lab.down(directory)
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def ext4(lab: Lab) -> DataSet:
    """A data set with ext4, in PAIR and mounted."""
    data = DataSet("ext4")
    data_sets.make(lab, data)
    return data


@pytest.fixture(scope="session")
def xfs(lab: Lab) -> DataSet:
    """A data set with XFS, in PAIR and mounted."""
    data = DataSet("xfs")
    data_sets.make(lab, data)
    return data
