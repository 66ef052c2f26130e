"""One run of the command: where the broker is, how to print, and the client in between.

Owns the global options and the event loop of a command. Must not know the commands. Everything
that goes wrong leaves as an exception that `main` turns into a sentence and an exit code.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.service.client import ApiClient
from controller.service.config import (
    BrokerConfig,
    ConfigError,
    Endpoint,
    Section,
    load_toml,
    parse_endpoint,
)
from controller.service.mqtt import Broker

DEFAULT_CONFIG = Path("/etc/trilun/cli.toml")
DEFAULT_PORT = 1883

ResultT = TypeVar("ResultT")


class CliConfig(Section):
    """/etc/trilun/cli.toml."""

    broker: BrokerConfig = BrokerConfig()


@dataclass(slots=True)
class Session:
    """The global options, as the command line and the environment gave them."""

    broker: Endpoint | None = None
    config: Path | None = None
    json: bool = False
    timeout_s: float = 30.0
    interrupt_message: str = "interrupted"
    interrupt_next_step: str = ""

    def address(self) -> Broker:
        """Where the broker is: the option, else the configuration file, else this machine.

        Raises ConfigError.
        """
        path = self.config or DEFAULT_CONFIG
        config = CliConfig()
        if self.config is not None or path.exists():
            config = load_toml(path, CliConfig)
        if self.broker is not None:
            return Broker(self.broker.host, self.broker.port or DEFAULT_PORT)
        settings = config.broker
        return Broker(settings.host, settings.port, settings.username, settings.password())

    def run(self, work: Callable[[ApiClient], Awaitable[ResultT]]) -> ResultT:
        """Do `work` with a connected client; raises what it raises."""
        broker = self.address()

        async def connected() -> ResultT:
            async with _client(broker) as client:
                return await work(client)

        return asyncio.run(connected())

    def say_on_interrupt(self, message: str, next_step: str) -> None:
        """What Ctrl-C means from here on."""
        self.interrupt_message = message
        self.interrupt_next_step = next_step


def quietly(session: Session, work: Callable[[ApiClient], Awaitable[list[str]]]) -> list[str]:
    """What `work` gives within a second, or nothing: shell completion must never complain."""

    async def bounded(client: ApiClient) -> list[str]:
        async with asyncio.timeout(1.0):
            return await work(client)

    with suppress(RejectedError, ConfigError, TimeoutError):
        return session.run(bounded)
    return []


def _client(broker: Broker) -> ApiClient:
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:20]
    return ApiClient(
        broker,
        client_id=f"cli-{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
        new_id=lambda: uuid.uuid4().hex,
    )


class EndpointType(click.ParamType[Endpoint]):
    """`HOST[:PORT]`."""

    name = "host[:port]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Endpoint:
        """Parse, or fail as a usage error."""
        if isinstance(value, Endpoint):
            return value
        try:
            return parse_endpoint(str(value), DEFAULT_PORT)
        except ValueError as exc:
            self.fail(f"'{value}' {exc}", param, ctx)


def _switch_to_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Session).json = True


class ApiCommand(click.Command):
    """A command that takes `--json` behind its name, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--json"],
                is_flag=True,
                expose_value=False,
                callback=_switch_to_json,
                help="Print one JSON document.",
            )
        )


class ApiGroup(click.Group):
    """A group whose commands are `ApiCommand`s."""

    command_class = ApiCommand
    group_class = type


def usage_error(message: str) -> RejectedError:
    """A command line that can't be meant."""
    return RejectedError(Code.BAD_REQUEST, message, "see --help")
