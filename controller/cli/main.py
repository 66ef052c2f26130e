"""The command `trilun`: global options, and one place for everything that goes wrong.

Owns the exit codes' use and the entry point. Must not be imported by anything but tests.
Every error leaves as one sentence and a next step on stderr, or as one JSON object on stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
from pydantic import ValidationError

from controller.api.codes import Code, Exit, exit_for
from controller.api.errors import RejectedError
from controller.cli.backup import backup
from controller.cli.completion import PROGRAM, completion
from controller.cli.databases import db
from controller.cli.first_volumes import fs
from controller.cli.groups import group
from controller.cli.jobs import job
from controller.cli.look import cat, diff, ls
from controller.cli.output import print_error
from controller.cli.pairs import pair
from controller.cli.restore import restore
from controller.cli.roles import swap, takeover
from controller.cli.session import ApiGroup, EndpointType, Session
from controller.cli.status import status
from controller.cli.volumes import volume
from controller.service.config import ConfigError, Endpoint
from controller.service.logs import set_up_logging
from controller.service.validation import error_lines


def _version() -> str:
    try:
        return version("trilun")
    except PackageNotFoundError:
        return "unknown (not installed)"


@click.group(cls=ApiGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--broker", type=EndpointType(), envvar="TRILUN_BROKER", metavar="HOST[:PORT]",
              help="The MQTT broker; else TRILUN_BROKER, else the configuration file.")  # fmt: skip
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Instead of /etc/trilun/cli.toml.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.001), default=30.0,
              metavar="SECONDS", show_default=True, help="For an answer.")  # fmt: skip
@click.option("--verbose", "-v", is_flag=True, help="Log to stderr.")
@click.version_option(_version(), prog_name=PROGRAM)
@click.pass_context
def cli(
    ctx: click.Context,
    broker: Endpoint | None,
    config: Path | None,
    as_json: bool,
    timeout_s: float,
    verbose: bool,
) -> None:
    """Operate trilun's controllers and host agents through their MQTT broker."""
    set_up_logging("debug" if verbose else "error")
    session = ctx.find_object(Session)
    assert session is not None
    session.broker = broker
    session.config = config
    session.json = session.json or as_json
    session.timeout_s = timeout_s


for _command in (
    volume, pair, group, backup, restore, job, ls, cat, diff, db, fs, status, completion,
):  # fmt: skip
    cli.add_command(_command)
for _command in (takeover, swap):
    pair.add_command(_command)


def run(argv: Sequence[str] | None = None) -> int:
    """Carry one command line out and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    session = Session(json=_wants_json(args))
    set_up_logging("error")
    try:
        outcome = cli.main(args, prog_name=PROGRAM, standalone_mode=False, obj=session)
    except RejectedError as exc:
        return _fail(session, exit_for(exc.code), exc.code.value, exc.message, exc.next_step)
    except ConfigError as exc:
        return _fail(session, Exit.USAGE, Code.BAD_REQUEST.value, "; ".join(exc.lines), "")
    except ValidationError as exc:
        sentence = "; ".join(error_lines(exc))
        return _fail(session, Exit.USAGE, Code.BAD_REQUEST.value, sentence, "see --help")
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message(), err=True)
        return Exit.USAGE
    except click.ClickException as exc:
        hint = ""
        if isinstance(exc, click.UsageError) and exc.ctx is not None:
            hint = f"{exc.ctx.command_path} --help"
        sentence = exc.format_message()
        return _fail(session, Exit.USAGE, Code.BAD_REQUEST.value, sentence, hint)
    except (KeyboardInterrupt, click.Abort):
        return _interrupted(session)
    except BrokenPipeError:
        # The reader has gone (`| head`); nothing more can be said to it.
        sys.stderr.close()
        return Exit.FAILED
    return outcome if isinstance(outcome, int) else Exit.OK


def _wants_json(args: list[str]) -> bool:
    """Known before the arguments parse, so that a usage error is JSON, too."""
    options = args[: args.index("--")] if "--" in args else args
    return "--json" in options


def _fail(session: Session, code: Exit, name: str, message: str, next_step: str) -> int:
    print_error(name, message, next_step, as_json=session.json)
    return code


def _interrupted(session: Session) -> int:
    if session.interrupt_message:
        print_error(
            "interrupted",
            session.interrupt_message,
            session.interrupt_next_step,
            as_json=session.json,
        )
    return Exit.INTERRUPTED


def main() -> None:
    """The entry point."""
    sys.exit(run())


if __name__ == "__main__":
    main()
