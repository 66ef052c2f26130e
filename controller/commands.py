"""The controller's commands: what each verb of the API does here.

Owns the translation of a request into calls on volumes and pairs, and of their outcome into an
answer. What has to be decided at the other controller is passed on over the link. Must not hold
state. Refuses with RejectedError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from controller import __version__
from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.verbs import VERBS
from controller.pair import messages as msg
from controller.pair.asked import Asked
from controller.pair.owner import PairOwner
from controller.pair.record import PairRecord
from controller.pair.table import Answer as Row
from controller.pair.table import Command, answer
from controller.volume.store import StoreError

if TYPE_CHECKING:
    from controller.node import Node

ACCEPT = "pair.accept"
"""Peer call: make the S-VOL's side of a new pair."""


PASSED_ON = frozenset(
    (
        "pair.split",
        "pair.resync",
        "pair.resolve",
        "pair.verify",
        "pair.delete",
        "backup.mark",
    )
)
"""What the S-VOL's controller hands to the P-VOL's."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command that was not rejected."""

    verdict: Verdict
    message: str
    result: m.Info | None
    """What it concerns now, as its verb says; None where that isn't there."""


class Commands:
    """The verbs of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._verbs: dict[str, Callable[[Any], Awaitable[Outcome]]] = {
            "node.show": self._node_show,
            "volume.create": self._volume_create,
            "volume.list": self._volume_list,
            "volume.show": self._volume_show,
            "volume.delete": self._volume_delete,
            "pair.create": self._pair_create,
            "pair.list": self._pair_list,
            "pair.show": self._pair_show,
            "pair.split": self._pair_split,
            "pair.resync": self._pair_resync,
            "pair.resolve": self._pair_resolve,
            "pair.verify": self._pair_verify,
            "pair.delete": self._pair_delete,
            "backup.mark": self._backup_mark,
            "view.open": self._view_open,
            "view.close": self._view_close,
        }

    async def carry_out(self, verb: str, params: m.Params) -> Outcome:
        """Carry one verb out; RejectedError when it can't be."""
        if self._node.stopping:
            raise RejectedError(
                Code.UNREACHABLE,
                f"controller '{self._node.name}' is being stopped",
                "ask again when it is back: trilun status",
            )
        method = self._verbs.get(verb)
        if method is None:
            raise RejectedError(
                Code.BAD_REQUEST, f"'{verb}' is not a verb of a controller", "ask a host agent"
            )
        try:
            return await method(params)
        except StoreError as error:
            raise RejectedError(
                Code.IO_ERROR, f"{verb}: {error}", "look at the disks of this controller"
            ) from error

    # ------------------------------------------------------------ node and volumes

    def status(self) -> m.NodeStatus:
        """This node's status."""
        return m.NodeStatus(
            node=self._node.name,
            kind=m.NodeKind.CONTROLLER,
            online=True,
            version=__version__,
            detail=self._node.detail(),
            peers=self._node.peers(),
        )

    async def _node_show(self, _params: m.Empty) -> Outcome:
        node = self._node
        names = sorted(shelved.record.name for shelved in node.volumes.all())
        pairs = sorted({owner.record.name for owner in node.pairs.owners()})
        result = m.NodeInfo(
            status=self.status(),
            volumes=[node.volume_info(name) for name in names],
            pairs=[node.pair_info(name) for name in pairs],
        )
        return _done(f"{len(names)} volumes, {len(pairs)} pairs", result)

    async def _volume_create(self, params: m.VolumeCreate) -> Outcome:
        shelved, made = await self._node.volumes.create(params)
        self._node.changed(shelved.volume)
        info = self._node.volume_info(params.name)
        if not made:
            return _no_op(f"volume '{params.name}' exists already", info)
        return _done(f"volume '{params.name}' is there, as {info.target}", info)

    async def _volume_list(self, _params: m.Empty) -> Outcome:
        names = sorted(shelved.record.name for shelved in self._node.volumes.all())
        volumes = [self._node.volume_info(name) for name in names]
        return _done(f"{len(names)} volumes", m.VolumeList(volumes=volumes))

    async def _volume_show(self, params: m.Named) -> Outcome:
        return _done("", self._node.volume_info(params.name))

    async def _volume_delete(self, params: m.VolumeDelete) -> Outcome:
        info = self._node.volume_info(params.name)
        shelved = await self._node.volumes.delete(params.name)
        self._node.changed(shelved.volume)
        return _done(f"volume '{params.name}' is deleted", info)

    async def _view_open(self, params: m.ViewOpen) -> Outcome:
        shelved, opened = await self._node.volumes.open_view(params, self._check_still)
        self._node.changed(shelved.volume)
        info = self._node.volume_info(params.view)
        text = f"view '{params.view}' of '{params.volume}'"
        return _done(f"{text} is open", info) if opened else _no_op(f"{text} is open already", info)

    def _check_still(self, volume: str) -> None:
        for owner in self._node.pairs.of_volume(volume):
            record = owner.record
            still = record.role is m.Role.S_VOL and record.state is m.PairState.SSUS
            if not still:
                raise RejectedError(
                    Code.WRONG_STATE,
                    f"'{volume}' changes: pair '{record.name}' is in {record.state}",
                    "a view needs the S-VOL of a split pair: take a backup first",
                )

    async def _view_close(self, params: m.Named) -> Outcome:
        known = {shelved.record.name for shelved in self._node.volumes.all()}
        if params.name not in known:
            return _no_op(f"there is no view '{params.name}'", None)
        info = self._node.volume_info(params.name)
        shelved = await self._node.volumes.close_view(params.name)
        if shelved is not None and shelved.view_of is not None:
            self._node.pairs.view_closed(shelved.view_of)
            self._node.changed(shelved.volume)
        return _done(f"view '{params.name}' is closed", info)

    # ------------------------------------------------------------ pairs

    async def _pair_create(self, params: m.PairCreate) -> Outcome:
        node = self._node
        existing = node.pairs.find(params.name)
        if existing is not None and _same(existing.record, params):
            return _no_op(f"pair '{params.name}' exists already", node.pair_info(params.name))
        if params.kind is m.PairKind.LOCAL:
            if params.peer is not None:
                raise RejectedError(Code.BAD_REQUEST, "peer: a local pair has none")
            await node.pairing.create_local(params)
        else:
            await self._create_remote(params)
        return _done(f"pair '{params.name}' is copying", node.pair_info(params.name))

    async def _create_remote(self, params: m.PairCreate) -> None:
        node = self._node
        if params.peer is None or params.peer not in node.links.peers:
            raise RejectedError(
                Code.BAD_REQUEST,
                f"peer: '{params.peer}' is not a peer of '{node.name}'",
                "add a [[peer]] section for it to the configuration",
            )
        shelved = node.pairing.check_new(params.name, params.p_volume, m.Role.P_VOL)
        if not shelved.record.consistent:
            raise RejectedError(Code.NOT_CONSISTENT, f"'{params.p_volume}' is half copied")
        record = node.pairing.new_record(params, m.Role.P_VOL, shelved.record.generation)
        record.rate_limit_bytes_per_s = (
            params.rate_limit_bytes_per_s or node.settings.rate_limit_bytes_per_s
        )
        other = record.model_copy(
            update={
                "role": m.Role.S_VOL,
                "volume": params.s_volume,
                "other_volume": params.p_volume,
                "peer": node.name,
            }
        )
        await node.calls.call(
            params.peer,
            ACCEPT,
            {"record": other.model_dump(mode="json"), "size_bytes": shelved.record.size_bytes},
        )
        owner = await node.pairs.add(record)
        stream = node.links.stream(params.peer)
        if stream is not None:
            node.connect(owner.side, stream)
        await owner.caught_up()

    async def _accept(self, peer: str, params: dict[str, Any]) -> dict[str, Any]:
        """The peer makes a pair whose S-VOL is here."""
        node = self._node
        record = PairRecord.model_validate(params["record"])
        record.peer = peer
        owner = await node.pairing.accept(record, int(params["size_bytes"]))
        stream = node.links.stream(peer)
        if stream is not None:
            node.connect(owner.side, stream)
        return {}

    async def _pair_list(self, _params: m.Empty) -> Outcome:
        names = sorted({owner.record.name for owner in self._node.pairs.owners()})
        pairs = [self._node.pair_info(name) for name in names]
        return _done(f"{len(names)} pairs", m.PairList(pairs=pairs))

    async def _pair_show(self, params: m.Named) -> Outcome:
        return _done("", self._node.pair_info(params.name))

    async def _pair_split(self, params: m.PairSplit) -> Outcome:
        asked = Asked(
            Command.SPLIT,
            label=params.label,
            at=params.at,
            number=params.number,
            writable=params.writable,
        )
        return await self._ask(params.name, "pair.split", params, asked)

    async def _pair_resync(self, params: m.PairResync) -> Outcome:
        asked = Asked(
            Command.RESYNC,
            direction=params.direction,
            full=params.full,
            force=params.force,
            expect_generation=params.expect_generation,
            rate_limit_bytes_per_s=params.rate_limit_bytes_per_s,
        )
        return await self._ask(params.name, "pair.resync", params, asked)

    async def _pair_resolve(self, params: m.PairResolve) -> Outcome:
        owner = self._node.pairs.get(params.name)
        record = owner.record
        if self._decided_elsewhere(owner):
            return await self._pass_on(owner, "pair.resolve", params)
        local = record.kind is m.PairKind.LOCAL
        mine = record.volume if local else self._node.name
        theirs = record.other_volume if local else record.peer
        if params.discard not in (mine, theirs):
            raise RejectedError(
                Code.BAD_REQUEST,
                f"discard: '{params.discard}' is no side of pair '{params.name}'",
                f"its sides are '{mine}' and '{theirs}'",
            )
        mine_goes = params.discard == mine
        reverse = mine_goes == (record.role is m.Role.P_VOL)
        asked = Asked(
            Command.RESYNC,
            direction=m.Direction.REVERSE if reverse else m.Direction.FORWARD,
            force=params.force,
            resolve=True,
        )
        return await self._ask(params.name, "pair.resolve", params, asked)

    async def _pair_verify(self, params: m.PairVerify) -> Outcome:
        asked = Asked(
            Command.VERIFY,
            repair=params.repair,
            rate_limit_bytes_per_s=params.rate_limit_bytes_per_s,
        )
        return await self._ask(params.name, "pair.verify", params, asked)

    async def _pair_delete(self, params: m.PairDelete) -> Outcome:
        owner = self._node.pairs.find(params.name)
        if owner is None:
            row = answer(m.PairState.SMPL, Command.DELETE, params.name)
            return _no_op(f"pair '{params.name}': {row.reason}", None)
        info = self._node.pair_info(params.name)
        if self._decided_elsewhere(owner):
            passed_on = await self._pass_on(owner, "pair.delete", params)
            if passed_on.verdict is Verdict.NO_OP:
                # Its other half is gone already: this one may go on its own.
                await owner.ask(Asked(Command.DELETE, force=True))
        else:
            await owner.ask(Asked(Command.DELETE, force=params.force))
        return _done(f"pair '{params.name}' is dissolved", info)

    async def _backup_mark(self, params: m.BackupMark) -> Outcome:
        owner = self._node.pairs.get(params.remote_pair)
        if self._decided_elsewhere(owner):
            return await self._pass_on(owner, "backup.mark", params)
        if owner.record.role is m.Role.S_VOL or owner.record.kind is m.PairKind.LOCAL:
            raise RejectedError(
                Code.BAD_REQUEST,
                f"'{params.remote_pair}' is not a remote pair whose P-VOL is here",
                "ask the P-VOL's controller",
            )
        await owner.mark(
            msg.Mark(
                local_pair=params.local_pair,
                label=params.label,
                at=params.at,
                number=params.number,
                split_remote=params.split_remote,
            )
        )
        return _done(
            f"'{params.local_pair}' was split at this point of the stream"
            + (f", and so was '{params.remote_pair}'" if params.split_remote else ""),
            self._node.pair_info(params.remote_pair),
        )

    async def _ask(self, name: str, verb: str, params: m.Params, asked: Asked) -> Outcome:
        owner = self._node.pairs.get(name)
        if self._decided_elsewhere(owner):
            return await self._pass_on(owner, verb, params)
        row: Row = await owner.ask(asked)
        return Outcome(row.verdict, f"pair '{name}': {row.reason}", self._node.pair_info(name))

    # ------------------------------------------------------------ between controllers

    def _decided_elsewhere(self, owner: PairOwner) -> bool:
        """Rule 1 of the state table: the P-VOL's controller decides, where it can be asked."""
        record = owner.record
        return (
            record.kind is m.PairKind.REMOTE
            and record.role is m.Role.S_VOL
            and record.peer is not None
            and self._node.links.connected(record.peer)
        )

    async def _pass_on(self, owner: PairOwner, verb: str, params: m.Params) -> Outcome:
        peer = owner.record.peer
        assert peer is not None
        reply = await self._node.calls.call(peer, verb, params.model_dump(mode="json"))
        info = reply["result"]
        result = None if info is None else m.PairInfo.model_validate(info)
        return Outcome(Verdict(reply["verdict"]), str(reply["message"]), result)

    async def serve_peer(self, peer: str, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        """A call of another controller: a pair's command passed on, or a new pair's half."""
        try:
            if verb == ACCEPT:
                return await self._accept(peer, params)
            if verb not in PASSED_ON:
                raise RejectedError(Code.BAD_REQUEST, f"'{verb}' is not for peers")
            outcome = await self.carry_out(verb, VERBS[verb].params.model_validate(params))
        except (ValidationError, KeyError, ValueError) as error:
            raise RejectedError(Code.BAD_REQUEST, f"malformed {verb} of '{peer}'") from error
        except StoreError as error:
            raise RejectedError(Code.IO_ERROR, f"{verb} at '{self._node.name}': {error}") from error
        return {
            "verdict": outcome.verdict.value,
            "message": outcome.message,
            "result": outcome.result and outcome.result.model_dump(mode="json"),
        }


def _same(record: PairRecord, asked: m.PairCreate) -> bool:
    return (
        record.kind is asked.kind
        and record.role is m.Role.P_VOL
        and record.volume == asked.p_volume
        and record.other_volume == asked.s_volume
        and record.peer == asked.peer
    )


def _done(message: str, result: m.Info) -> Outcome:
    return Outcome(Verdict.ACCEPTED, message, result)


def _no_op(message: str, result: m.Info | None) -> Outcome:
    return Outcome(Verdict.NO_OP, message, result)
