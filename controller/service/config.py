"""Configuration files: TOML, checked before anything is started.

Owns the shape of a controller's configuration and the loader every daemon uses. Must not open
sockets or make directories. Fails with a `ConfigError` that holds one line an error, each
beginning with the file's path; unknown keys are errors, and no line ever shows a value.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from controller.api.messages import Name
from controller.service.sizes import parse_size
from controller.service.validation import error_lines

MAX_CONFIG_BYTES = 1 << 20
MAX_SECRET_BYTES = 4096
CREDENTIAL_PREFIX = "credential:"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
KIB = 1 << 10
MIB = 1 << 20

ModelT = TypeVar("ModelT", bound=BaseModel)


class ConfigError(Exception):
    """A configuration that can't be used; `lines` holds one sentence an error."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class NoCredentialsError(ConfigError):
    """A secret is a service's credential, and this process has no credentials."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address. Port 0 asks the kernel for a free one where it is listened on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str, default_port: int | None = None) -> Endpoint:
    """An `Endpoint` from `host:port` or `[v6]:port`; raises ValueError in one sentence."""
    host, colon, digits = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, digits = text, "" if default_port is None else str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("must be host:port, with an IPv6 address in square brackets")
    if not host or not (digits.isascii() and digits.isdigit()):
        raise ValueError("must be host:port")
    return Endpoint(host, check_port(int(digits)))


def check_port(port: int) -> int:
    """Return `port`, or raise ValueError when it can't be a TCP port."""
    if not 0 <= port <= 65535:
        raise ValueError("must be between 0 and 65535")
    return port


def _endpoint(value: Any) -> Any:
    return parse_endpoint(value) if isinstance(value, str) else value


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


def _secret_file(value: Path) -> Path:
    name = _credential_name(value)
    if name is not None and not _CREDENTIAL_NAME.fullmatch(name):
        raise ValueError("must be credential:NAME, with letters, digits, '.', '_' and '-'")
    return value


Port = Annotated[int, AfterValidator(check_port)]
EndpointField = Annotated[Endpoint, BeforeValidator(_endpoint)]
SecretFile = Annotated[Path, AfterValidator(_secret_file)]
"""A path, or `credential:NAME`; see `secret_path`."""
SizeBytes = Annotated[int, BeforeValidator(_size), Field(ge=0)]


class Section(BaseModel):
    """Base of every table of a configuration file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BrokerConfig(Section):
    """Where the MQTT broker is, and who we are there."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Port = 1883
    username: str | None = None
    password_file: SecretFile | None = None

    def password(self) -> SecretStr | None:
        """Read the password; raises ConfigError when its file can't be used."""
        return None if self.password_file is None else read_secret(self.password_file)


class ChapConfig(Section):
    """CHAP for every target of this controller; mutual when the second pair is given."""

    user: Annotated[str, Field(min_length=1, max_length=223)]
    secret_file: SecretFile
    mutual_user: str | None = None
    mutual_secret_file: SecretFile | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> ChapConfig:
        if (self.mutual_user is None) != (self.mutual_secret_file is None):
            raise ValueError("mutual_user and mutual_secret_file go together")
        return self


class TargetConfig(Section):
    """The front end that exports volumes."""

    kind: Literal["embedded", "lio", "auto"] = "embedded"
    listen: Annotated[list[EndpointField], Field(min_length=1, max_length=16)] = [
        Endpoint("127.0.0.1", 3260)
    ]
    chap: ChapConfig | None = None


class LinkConfig(Section):
    """Where peers reach this controller."""

    listen: EndpointField = Endpoint("127.0.0.1", 7400)


class PeerConfig(Section):
    """Another controller."""

    name: Name
    address: EndpointField


class IntentConfig(Section):
    """The write-intent log of each volume."""

    extent_bytes: Annotated[SizeBytes, Field(ge=4096, le=1 << 30)] = 256 * KIB
    hot_extents: Annotated[int, Field(ge=4, le=16384)] = 4096

    @model_validator(mode="after")
    def _power_of_two(self) -> IntentConfig:
        if self.extent_bytes & (self.extent_bytes - 1):
            raise ValueError("extent_bytes must be a power of two")
        return self


class LogConfig(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json", "journal"] = "auto"
    """`auto`: `journal` where the service manager connects stderr to it, else `console`."""


class ResyncConfig(Section):
    """What a resync may take of the link; None is no limit."""

    rate_limit_bytes_per_s: Annotated[SizeBytes, Field(ge=MIB)] | None = None


class ControllerConfig(Section):
    """Everything a controller is told at its start."""

    node: Name
    state_dir: Path
    volume_dir: Path
    broker: BrokerConfig = BrokerConfig()
    target: TargetConfig = TargetConfig()
    link: LinkConfig = LinkConfig()
    peer: Annotated[list[PeerConfig], Field(max_length=64)] = []
    intent: IntentConfig = IntentConfig()
    log: LogConfig = LogConfig()
    resync: ResyncConfig = ResyncConfig()

    @model_validator(mode="before")
    @classmethod
    def _default_directories(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("node"), str):
            return data
        state_dir = data.get("state_dir", f"/var/lib/trilun/{data['node']}")
        filled = {**data, "state_dir": state_dir}
        if isinstance(state_dir, str | Path):
            filled.setdefault("volume_dir", Path(state_dir) / "volumes")
        return filled

    @model_validator(mode="after")
    def _peers_are_others(self) -> ControllerConfig:
        names = [peer.name for peer in self.peer]
        if self.node in names:
            raise ValueError(f"peer: '{self.node}' is this controller itself")
        if len(set(names)) != len(names):
            raise ValueError("peer: every peer needs its own name")
        return self

    @property
    def peers(self) -> dict[str, Endpoint]:
        """Peer name to address."""
        return {peer.name: peer.address for peer in self.peer}


def load_toml(path: Path, model: type[ModelT]) -> ModelT:
    """Read and check a configuration file; raises ConfigError with one line an error."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError([f"{path}: is larger than {MAX_CONFIG_BYTES} bytes"])
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError([f"{path}: {exc.strerror or exc}"]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([f"{path}: is not UTF-8 text (byte {exc.start})"]) from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError([f"{path}: {' '.join(str(exc).split())}"]) from exc
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        raise ConfigError([f"{path}: {line}" for line in error_lines(exc, model)]) from exc


def secret_path(path: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The file of a secret; `credential:NAME` is what the service manager passed by that name.

    See systemd.exec(5), "Credentials". Raises NoCredentialsError outside of such a service.
    """
    name = _credential_name(path)
    if name is None:
        return path
    directory = environ.get(CREDENTIALS_VARIABLE)
    if not directory:
        raise NoCredentialsError(
            [f"{path}: only the service has this credential (LoadCredential= in its unit)"]
        )
    return Path(directory) / name


def _credential_name(path: Path) -> str | None:
    text = str(path)
    return text.removeprefix(CREDENTIAL_PREFIX) if text.startswith(CREDENTIAL_PREFIX) else None


def read_secret(path: Path, environ: Mapping[str, str] = os.environ) -> SecretStr:
    """The one line of a secret's file, which others must not be able to read.

    `path` may be `credential:NAME` (see `secret_path`). Raises ConfigError when the secret is
    missing, empty, too long or open to everybody.
    """
    path = secret_path(path, environ)
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o007:
            raise ConfigError([f"{path}: everybody can open this secret; chmod o= it"])
        with path.open("rb") as file:
            raw = file.read(MAX_SECRET_BYTES + 1)
        text = raw.decode("utf-8").rstrip("\r\n")
    except OSError as exc:
        raise ConfigError([f"{path}: {exc.strerror or exc}"]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from exc
    if not text or "\n" in text or len(raw) > MAX_SECRET_BYTES:
        raise ConfigError([f"{path}: must hold one line, up to {MAX_SECRET_BYTES} bytes"])
    return SecretStr(text)
