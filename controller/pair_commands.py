"""The verbs of pairs: made, split, resynchronised, handed over, deleted.

Owns their translation into commands to a pair's owner. What has to be decided at the other
controller is passed on over the link. Must not hold state. Refuses with RejectedError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.marked import marked_in
from controller.outcome import Outcome, done, no_op
from controller.pair import messages as msg
from controller.pair.asked import Asked
from controller.pair.owner import PairOwner
from controller.pair.record import PairRecord
from controller.pair.table import Answer as Row
from controller.pair.table import Command, Named, answer

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
        "pair.swap",
        "backup.mark",
    )
)
"""What the S-VOL's controller hands to the P-VOL's."""


class PairCommands:
    """The verbs of one node's pairs."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.verbs: dict[str, Callable[[Any], Awaitable[Outcome]]] = {
            "pair.create": self._create,
            "pair.list": self._list,
            "pair.show": self._show,
            "pair.split": self._split,
            "pair.resync": self._resync,
            "pair.resolve": self._resolve,
            "pair.verify": self._verify,
            "pair.delete": self._delete,
            "pair.takeover": self._takeover,
            "pair.swap": self._swap,
            "pair.changed": self._changed,
            "backup.mark": self._backup_mark,
        }

    async def _changed(self, params: m.PairChanged) -> Outcome:
        sides = [owner.side for owner in self._node.pairs.sides(params.name)]
        looked_at = self._node.volumes.get(params.view).view_of
        s_volumes = [side.record.volume for side in sides if side.record.role is m.Role.S_VOL]
        if looked_at not in s_volumes:
            raise RejectedError(
                Code.WRONG_STATE,
                f"'{params.view}' is no view of the S-VOL of '{params.name}'",
                "open one first",
            )
        return done("", marked_in([side.bitmap for side in sides], params.ranges))

    async def _create(self, params: m.PairCreate) -> Outcome:
        node = self._node
        existing = node.pairs.find(params.name)
        if existing is not None and _same(existing.record, params):
            return no_op(f"pair '{params.name}' exists already", node.pair_info(params.name))
        if params.kind is m.PairKind.LOCAL:
            if params.peer is not None:
                raise RejectedError(Code.BAD_REQUEST, "peer: a local pair has none", "leave it out")
            await node.pairing.create_local(params)
        else:
            await self._create_remote(params)
        return done(f"pair '{params.name}' is copying", node.pair_info(params.name))

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
            raise RejectedError(
                Code.NOT_CONSISTENT,
                f"'{params.p_volume}' is half copied",
                "end the copy into it first: trilun pair list shows by which pair",
            )
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
        with shelved.claimed():
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

    async def accept(self, peer: str, params: dict[str, Any]) -> dict[str, Any]:
        """The peer makes a pair whose S-VOL is here."""
        node = self._node
        record = PairRecord.model_validate(params["record"])
        record.peer = peer
        owner = await node.pairing.accept(record, int(params["size_bytes"]))
        stream = node.links.stream(peer)
        if stream is not None:
            node.connect(owner.side, stream)
        return {}

    async def _list(self, _params: m.Empty) -> Outcome:
        names = sorted({owner.record.name for owner in self._node.pairs.owners()})
        pairs = [self._node.pair_info(name) for name in names]
        return done(f"{len(names)} pairs", m.PairList(pairs=pairs))

    async def _show(self, params: m.Named) -> Outcome:
        return done("", self._node.pair_info(params.name))

    async def _split(self, params: m.PairSplit) -> Outcome:
        asked = Asked(
            Command.QUICK if params.quick else Command.SPLIT,
            label=params.label,
            at=params.at,
            number=params.number,
            writable=params.writable,
        )
        return await self._ask(params.name, "pair.split", params, asked)

    async def _resync(self, params: m.PairResync) -> Outcome:
        asked = Asked(
            Command.RESYNC,
            direction=params.direction,
            full=params.full,
            force=params.force,
            expect_generation=params.expect_generation,
            rate_limit_bytes_per_s=params.rate_limit_bytes_per_s,
        )
        return await self._ask(params.name, "pair.resync", params, asked)

    async def _resolve(self, params: m.PairResolve) -> Outcome:
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

    async def _verify(self, params: m.PairVerify) -> Outcome:
        asked = Asked(
            Command.VERIFY,
            repair=params.repair,
            rate_limit_bytes_per_s=params.rate_limit_bytes_per_s,
        )
        return await self._ask(params.name, "pair.verify", params, asked)

    async def _delete(self, params: m.PairDelete) -> Outcome:
        owner = self._node.pairs.find(params.name)
        if owner is None:
            row = answer(m.PairState.SMPL, Command.DELETE, Named(params.name))
            return no_op(f"pair '{params.name}': {row.reason}", None)
        info = self._node.pair_info(params.name)
        if self._decided_elsewhere(owner):
            passed_on = await self._pass_on(owner, "pair.delete", params)
            if passed_on.verdict is Verdict.NO_OP:
                # Its other half is gone already: this one may go on its own.
                await owner.ask(Asked(Command.DELETE, force=True))
        else:
            await owner.ask(Asked(Command.DELETE, force=params.force))
        return done(f"pair '{params.name}' is dissolved", info)

    async def _takeover(self, params: m.PairTakeover) -> Outcome:
        # Never passed on: it is for when the P-VOL's controller can't be asked.
        row = await self._node.pairs.get(params.name).ask(Asked(Command.TAKEOVER))
        return self._outcome(params.name, row)

    async def _swap(self, params: m.PairSwap) -> Outcome:
        owner = self._node.pairs.get(params.name)
        record, mine = owner.record, self._node.name
        sides = (mine, record.peer) if record.role is m.Role.P_VOL else (record.peer, mine)
        if params.to not in sides:
            raise RejectedError(
                Code.BAD_REQUEST,
                f"to: '{params.to}' has no side of pair '{params.name}'",
                f"its sides are at '{sides[0]}' and '{sides[1]}'"
                if record.peer is not None
                else "a local pair has one controller: delete it and create it the other way",
            )
        if params.to == sides[0] and record.closed == "swapping":
            keep = Asked(Command.KEEP, force=params.force)
            return self._outcome(params.name, await owner.ask(keep))
        if params.to == sides[0]:
            info = self._node.pair_info(params.name)
            return no_op(f"'{params.to}' has the P-VOL of '{params.name}' already", info)
        asked = Asked(Command.SWAP, force=params.force)
        if record.state is m.PairState.SSWS:
            return self._outcome(params.name, await owner.ask(asked))
        return await self._ask(params.name, "pair.swap", params, asked)

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
                quick=params.quick,
            )
        )
        return done(
            f"'{params.local_pair}' was split at this point of the stream"
            + (f", and so was '{params.remote_pair}'" if params.split_remote else ""),
            self._node.pair_info(params.remote_pair),
        )

    async def _ask(self, name: str, verb: str, params: m.Params, asked: Asked) -> Outcome:
        owner = self._node.pairs.get(name)
        if self._decided_elsewhere(owner):
            return await self._pass_on(owner, verb, params)
        return self._outcome(name, await owner.ask(asked))

    def _outcome(self, name: str, row: Row) -> Outcome:
        return Outcome(row.verdict, f"pair '{name}': {row.reason}", self._node.pair_info(name))

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


def _same(record: PairRecord, asked: m.PairCreate) -> bool:
    return (
        record.kind is asked.kind
        and record.role is m.Role.P_VOL
        and record.volume == asked.p_volume
        and record.other_volume == asked.s_volume
        and record.peer == asked.peer
    )
