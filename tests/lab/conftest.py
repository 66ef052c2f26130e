"""Fixtures of the lab's tests: hosts with kernels of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.labs import data_sets, needs, roles
from deploy.labs.host import Host
from deploy.labs.lab import Lab, directory_of_choice
from deploy.labs.one import one_host
from deploy.labs.problem import LabError
from deploy.labs.roles import DataSet
from deploy.labs.terminated import unwound


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
