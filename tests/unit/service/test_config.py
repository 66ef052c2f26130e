"""Configuration: each mistake is one line that names file and key, and no secret."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.service.config import (
    ConfigError,
    ControllerConfig,
    Endpoint,
    NoCredentialsError,
    load_toml,
    parse_endpoint,
    read_secret,
    secret_path,
)
from controller.service.validation import error_lines

pytestmark = pytest.mark.plain

FULL = """
node = "ctl1"
state_dir = "/srv/trilun"
[broker]
host = "broker.example"
port = 8883
username = "ctl1"
[target]
listen = ["127.0.0.1:3260", "[::1]:3261"]
[target.chap]
user = "host1"
secret_file = "/etc/trilun/chap"
[link]
listen = "0.0.0.0:7400"
[[peer]]
name = "ctl2"
address = "10.0.0.2:7400"
[intent]
extent_bytes = "1MiB"
hot_extents = 64
[log]
level = "debug"
format = "json"
[resync]
rate_limit_bytes_per_s = "50MiB"
"""


def load(tmp_path: Path, text: str) -> ControllerConfig:
    path = tmp_path / "ctl.toml"
    path.write_text(text)
    return load_toml(path, ControllerConfig)


def complaints(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    prefix = f"{tmp_path / 'ctl.toml'}: "
    assert all(line.startswith(prefix) for line in caught.value.lines)
    return [line.removeprefix(prefix) for line in caught.value.lines]


def test_a_full_configuration(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    assert config.volume_dir == Path("/srv/trilun/volumes")
    assert config.target.listen == [Endpoint("127.0.0.1", 3260), Endpoint("::1", 3261)]
    assert config.peers == {"ctl2": Endpoint("10.0.0.2", 7400)}
    assert config.intent.extent_bytes == 1 << 20
    assert config.resync.rate_limit_bytes_per_s == 50 << 20


def test_the_defaults_need_a_name_only(tmp_path: Path) -> None:
    config = load(tmp_path, 'node = "ctl1"')
    assert config.state_dir == Path("/var/lib/trilun/ctl1")
    assert config.intent.extent_bytes == 256 << 10
    assert config.intent.hot_extents == 4096
    assert str(config.link.listen) == "127.0.0.1:7400"
    assert config.broker.password() is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[broker]\nport = 70000", "broker.port: must be between 0 and 65535"),
        ("[broker]\nprot = 1", "broker.prot: is not known; did you mean 'port'?"),
        ("hots = 1", "hots: is not known"),
        ("[link]\nlisten = 'x'", "link.listen: must be host:port"),
        ("[link]\nlisten = 'x:99999'", "link.listen: must be between 0 and 65535"),
        ("[link]\nlisten = '::1:7'",
         "link.listen: must be host:port, with an IPv6 address in square brackets"),
        ("[[peer]]\nname = 'a/b'\naddress = 'h:1'",
         "peer.0.name: must match ^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"),
        ("[[peer]]\nname = 'b'", "peer.0.address: is required"),
        ("[[peer]]\nname = 'ctl1'\naddress = 'h:1'", "peer: 'ctl1' is this controller itself"),
        ("[intent]\nextent_bytes = 5000", "intent: extent_bytes must be a power of two"),
        ("[intent]\nextent_bytes = '4MB'",
         "intent.extent_bytes: '4MB' is ambiguous: write KiB, MiB, GiB or TiB"),
        ("[intent]\nhot_extents = 'many'", "intent.hot_extents: must be a whole number"),
        ("[target]\nkind = 'tgt'", "target.kind: must be 'embedded', 'lio' or 'auto'"),
        ("[target.chap]\nuser = 'u'\nsecret_file = '/s'\nmutual_user = 'm'",
         "target.chap: mutual_user and mutual_secret_file go together"),
        ("[broker]\npassword_file = 'credential:../x'",
         "broker.password_file: must be credential:NAME, with letters, digits, '.', '_' and '-'"),
        ("broker = 3", "broker: must be a table of keys and values"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    assert complaints(tmp_path, f'node = "ctl1"\n{text}\n') == [line]


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    lines = complaints(tmp_path, "[broker]\nport = -1\n[log]\nlevel = 'loud'\n")
    assert [line.split(":")[0] for line in lines] == ["node", "state_dir", "volume_dir",
                                                       "broker.port", "log.level"]  # fmt: skip


def test_what_is_not_toml_is_one_line(tmp_path: Path) -> None:
    (line,) = complaints(tmp_path, "node = \n")
    assert "line 1" in line
    with pytest.raises(ConfigError, match="No such file"):
        load_toml(tmp_path / "missing.toml", ControllerConfig)


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(string.printable),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(string.ascii_letters, min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from([*ControllerConfig.model_fields, "nonsense"])


@given(st.dictionaries(KEYS, JSONISH, max_size=6))
def test_whatever_stands_there_errors_are_single_lines(data: dict[str, Any]) -> None:
    try:
        ControllerConfig.model_validate(data)
    except ValidationError as exc:
        lines = error_lines(exc, ControllerConfig)
        assert lines
        assert all(line and "\n" not in line for line in lines)


@given(st.ip_addresses(), st.integers(min_value=0, max_value=65535))
def test_endpoints_read_back(address: object, port: int) -> None:
    endpoint = Endpoint(str(address).split("%")[0], port)
    assert parse_endpoint(str(endpoint)) == endpoint


def test_an_endpoint_may_lack_its_port_where_there_is_a_default() -> None:
    assert parse_endpoint("broker", 1883) == Endpoint("broker", 1883)
    assert parse_endpoint("[::1]", 1883) == Endpoint("::1", 1883)
    with pytest.raises(ValueError, match="host:port"):
        parse_endpoint("broker")


def test_a_secret_is_one_private_line(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hush\n")
    path.chmod(0o600)
    secret = read_secret(path)
    assert secret.get_secret_value() == "hush"
    assert "hush" not in repr(secret)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="everybody can open this secret"):
        read_secret(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"x" * 5000, b"\xff"])
def test_odd_secrets_are_refused_without_showing_them(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        read_secret(path)
    assert "two" not in str(caught.value)


def test_a_secret_may_be_a_credential(tmp_path: Path) -> None:
    """systemd.exec(5): a file by that name in a folder of the service's own."""
    (tmp_path / "mqtt").write_text("hush\n")
    (tmp_path / "mqtt").chmod(0o440)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    name = Path("credential:mqtt")
    assert secret_path(name, environ) == tmp_path / "mqtt"
    assert read_secret(name, environ).get_secret_value() == "hush"
    assert secret_path(Path("/etc/secret"), environ) == Path("/etc/secret")
    with pytest.raises(ConfigError, match=f"{tmp_path}/chap: No such file"):
        read_secret(Path("credential:chap"), environ)
    with pytest.raises(NoCredentialsError, match="credential:mqtt: only the service has this"):
        read_secret(name, {})
    config = load(tmp_path, 'node = "a"\n[broker]\npassword_file = "credential:mqtt"')
    assert config.broker.password_file == name
