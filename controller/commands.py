"""The controller's commands: what each verb of the API does here.

Owns the way of a verb to what carries it out, the verbs of the node, its volumes and views, and
what a peer may ask. Must not hold state. Refuses with RejectedError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from controller import __version__
from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.verbs import VERBS
from controller.group_commands import GroupCommands
from controller.outcome import Outcome, done, no_op
from controller.pair_commands import ACCEPT, PASSED_ON, PairCommands
from controller.stillness import changing_pair
from controller.volume.store import Image, StoreError

if TYPE_CHECKING:
    from controller.node import Node

_SAME_RELEASE = "run the same release on both controllers"


class Commands:
    """The verbs of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pair_commands = PairCommands(node)
        self._verbs: dict[str, Callable[[Any], Awaitable[Outcome]]] = {
            "node.show": self._node_show,
            "volume.create": self._volume_create,
            "volume.grow": self._volume_grow,
            "volume.allow": self._volume_allow,
            "volume.list": self._volume_list,
            "volume.show": self._volume_show,
            "volume.delete": self._volume_delete,
            "view.open": self._view_open,
            "view.close": self._view_close,
            **self._pair_commands.verbs,
            **GroupCommands(node.groups, node.keeping).verbs,
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
        return done(f"{len(names)} volumes, {len(pairs)} pairs", result)

    async def _volume_create(self, params: m.VolumeCreate) -> Outcome:
        shelved, made = await self._node.volumes.create(params)
        self._node.changed(shelved.volume)
        info = self._node.volume_info(params.name)
        if not made:
            return no_op(f"volume '{params.name}' exists already", info)
        text = f"volume '{params.name}' is there, as {info.target}"
        if info.trouble:
            text += f"; hosts can't find it yet: {info.trouble}"
        return done(text, info)

    async def _volume_grow(self, params: m.VolumeGrow) -> Outcome:
        shelved, grown = await self._node.volumes.grow(params)
        self._node.changed(shelved.volume)
        info = self._node.volume_info(params.name)
        text = f"volume '{params.name}' has {params.size_bytes} bytes"
        return done(text, info) if grown else no_op(f"{text} already", info)

    async def _volume_allow(self, params: m.VolumeAllow) -> Outcome:
        shelved, changed = await self._node.volumes.allow(params)
        self._node.changed(shelved.volume)
        info = self._node.volume_info(params.name)
        who = ", ".join(info.initiators) or "every initiator"
        text = f"{who} may log in to volume '{params.name}'"
        return done(text, info) if changed else no_op(f"{text} already", info)

    async def _volume_list(self, _params: m.Empty) -> Outcome:
        names = sorted(shelved.record.name for shelved in self._node.volumes.all())
        volumes = [self._node.volume_info(name) for name in names]
        return done(f"{len(names)} volumes", m.VolumeList(volumes=volumes))

    async def _volume_show(self, params: m.Named) -> Outcome:
        return done("", self._node.volume_info(params.name))

    async def _volume_delete(self, params: m.VolumeDelete) -> Outcome:
        info = self._node.volume_info(params.name)
        shelved = await self._node.volumes.delete(params.name)
        self._node.changed(shelved.volume)
        return done(f"volume '{params.name}' is deleted", info)

    async def _view_open(self, params: m.ViewOpen) -> Outcome:
        shelved, opened = await self._node.volumes.open_view(params, self._image_of)
        self._node.changed(shelved.volume)
        info = self._node.volume_info(params.view)
        text = f"view '{params.view}' of '{params.volume}'"
        return done(f"{text} is open", info) if opened else no_op(f"{text} is open already", info)

    def _image_of(self, volume: str) -> Image | None:
        pairs = self._node.pairs
        early = pairs.early_image(volume)
        changing = changing_pair(
            [owner.record for owner in pairs.of_volume(volume)], early=early is not None
        )
        if changing is not None:
            raise RejectedError(
                Code.WRONG_STATE,
                f"'{volume}' changes: pair '{changing.name}' is in {changing.state}",
                "a view needs the S-VOL of a split pair: take a backup first",
            )
        return early

    async def _view_close(self, params: m.Named) -> Outcome:
        known = {shelved.record.name for shelved in self._node.volumes.all()}
        if params.name not in known:
            return no_op(f"there is no view '{params.name}'", None)
        info = self._node.volume_info(params.name)
        shelved = await self._node.volumes.close_view(params.name)
        if shelved is not None and shelved.view_of is not None:
            self._node.pairs.view_closed(shelved.view_of)
            self._node.changed(shelved.volume)
        return done(f"view '{params.name}' is closed", info)

    async def serve_peer(self, peer: str, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        """A call of another controller: a pair's command passed on, or a new pair's half."""
        try:
            if verb == ACCEPT:
                return await self._pair_commands.accept(peer, params)
            if verb not in PASSED_ON:
                raise RejectedError(Code.BAD_REQUEST, f"'{verb}' is not for peers", _SAME_RELEASE)
            outcome = await self.carry_out(verb, VERBS[verb].params.model_validate(params))
        except (ValidationError, KeyError, ValueError) as error:
            raise RejectedError(
                Code.BAD_REQUEST, f"malformed {verb} of '{peer}'", _SAME_RELEASE
            ) from error
        except StoreError as error:
            raise RejectedError(
                Code.IO_ERROR,
                f"{verb} at '{self._node.name}': {error}",
                f"mend the disk that holds state_dir of '{self._node.name}', then restart trilund",
            ) from error
        return {
            "verdict": outcome.verdict.value,
            "message": outcome.message,
            "result": outcome.result and outcome.result.model_dump(mode="json"),
        }
