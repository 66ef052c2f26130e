"""Databases, as restores have to do with them.

Owns what is asked of host 1 and when: what a data set's databases are, that they are started
again when a restore is undone, and recovered and checked when it isn't. Must not start anything
itself. A recovery that failed is written down first, with the receipt, and fails the job then:
the files are back, and nothing is undone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controller.api import messages as m
from controller.api.file_names import from_wire, to_wire
from hostagent.errors import FinalError, HostError
from hostagent.jobs.context import JobContext
from hostagent.jobs.record import JobRecord
from hostagent.recovery.files import FileSet, named_sets

FIRST_POLL_S = 0.25
MAX_POLL_S = 5.0
_SETS = "database_sets"
_FOUND = "databases"


# ---------------------------------------------------------------- their files


async def refuse_parts(
    context: JobContext, view: Path, names: list[str], place: str, policy: m.Conflict
) -> None:
    """Refuse a restore of a part of a database; remember which come back whole."""
    data_set, facts = context.data_set, context.record.facts
    info = await _show(context)
    sets: list[FileSet] = []
    if info.databases:
        sets = await context.ports.databases.sets(view, info.databases, data_set.mountpoint)
        sets = named_sets(sets, names, place, data_set.name, policy)
    facts[_SETS] = [_to_fact(one) for one in sets]


async def make_exact(context: JobContext, view: Path, volume: Path) -> None:
    """Remove from the second volume what the backup's databases don't have."""
    sets = [_from_fact(fact) for fact in context.record.facts.get(_SETS, [])]
    if sets:
        await context.ports.databases.make_exact(view, volume, sets)


def _to_fact(one: FileSet) -> dict[str, Any]:
    return {
        "database": one.database,
        "kind": one.kind,
        "needed": [to_wire(path) for path in one.needed],
        "optional": [to_wire(path) for path in one.optional],
    }


def _from_fact(fact: dict[str, Any]) -> FileSet:
    return FileSet(
        fact["database"],
        fact["kind"],
        tuple(from_wire(path) for path in fact["needed"]),
        tuple(from_wire(path) for path in fact["optional"]),
    )


# ---------------------------------------------------------------- their servers


async def start_again(context: JobContext, there: m.HostFs) -> None:
    """Nothing was restored: start what was stopped, as it was. Raises FinalError."""
    begun = await _begin(context, check=False)
    if begun.concerned and not there.mounted:
        node = context.data_set.host1
        raise FinalError(
            f"{there.mountpoint} is not mounted on {node}: {', '.join(begun.concerned)} will be "
            "started once it is",
            f"look at the log of {node}; `systemctl restart trilun-agent@{node}` mounts it anew",
        )
    _raise_if_failed(await _until_recovered(context, begun))


async def recover(context: JobContext) -> None:
    """Start, recover and check every database of the data set; how it went is remembered."""
    found = await _until_recovered(context, await _begin(context, check=True))
    context.record.facts[_FOUND] = [info.model_dump(mode="json") for info in found]


async def judge(context: JobContext) -> None:
    """The last step, behind the receipt: a database that isn't good fails the job."""
    _raise_if_failed(databases_of(context.record))


def databases_of(record: JobRecord) -> list[m.DatabaseInfo]:
    """What is known of the job's databases, for its receipt."""
    return databases_in(record.facts)


def databases_in(facts: dict[str, Any]) -> list[m.DatabaseInfo]:
    """What is known of the databases of a part of a job."""
    return [m.DatabaseInfo.model_validate(one) for one in facts.get(_FOUND, [])]


def remember(context: JobContext, databases: list[m.DatabaseInfo]) -> None:
    """What a backup prepared, for its receipt."""
    context.facts[_FOUND] = [info.model_dump(mode="json") for info in databases]


async def _begin(context: JobContext, *, check: bool) -> m.RecoveryInfo:
    data_set, record = context.data_set, context.record
    params = m.DbRecover(data_set=data_set.name, job=record.id, check=check)
    key = "recover" if check else "start-again"
    return await context.ask(data_set.host1, "db.recover", params, m.RecoveryInfo, key)


async def _until_recovered(context: JobContext, begun: m.RecoveryInfo) -> list[m.DatabaseInfo]:
    data_set, record = context.data_set, context.record
    if not begun.concerned:
        return []
    pause_s = FIRST_POLL_S
    while True:
        info = await _show(context)
        if info.job != record.id:
            raise HostError(
                f"{data_set.host1} recovers the databases for {info.job or 'an operator'} now",
                f"look at `trilun db show {data_set.name}`",
            )
        if not info.running:
            return [one for one in info.databases if one.name in info.concerned]
        message = ", ".join(
            f"database '{one.name}' is {one.state.value}"
            for one in info.databases
            if one.state in {m.DatabaseState.STARTING, m.DatabaseState.CHECKING}
        )
        if message and message != record.message:
            record.message = message
            context.publish()
        await context.ports.pause(pause_s)
        # A check may take hours.
        pause_s = min(MAX_POLL_S, pause_s * 1.1)


async def _show(context: JobContext) -> m.RecoveryInfo:
    data_set = context.data_set
    params = m.DataSetNamed(data_set=data_set.name)
    return await context.look(data_set.host1, "db.show", params, m.RecoveryInfo)


def _raise_if_failed(databases: list[m.DatabaseInfo]) -> None:
    failed = [info for info in databases if info.state is m.DatabaseState.FAILED]
    if failed:
        raise FinalError(
            "; ".join(info.error for info in failed), next(info.next_step for info in failed)
        )
