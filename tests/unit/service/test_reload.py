"""Reloading: what is taken over, what is named, and that a mistake changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from controller.service.config import ControllerConfig, load_toml
from controller.service.reload import Reloader, changed_keys

pytestmark = pytest.mark.plain

LIVE = frozenset({"log.level", "resync.rate_limit_bytes_per_s"})


class Daemon:
    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.path.write_text(text)
        self.taken_over: list[ControllerConfig] = []
        config = load_toml(path, ControllerConfig)
        self.reloader = Reloader(path, config, LIVE, self.taken_over.append)

    def reload(self, text: str) -> list[dict[str, object]]:
        self.path.write_text(text)
        with capture_logs() as lines:
            self.reloader.reload()
        return [dict(line) for line in lines]


def test_what_can_be_is_taken_over(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "c.toml", 'node = "a"')
    (line,) = daemon.reload('node = "a"\n[log]\nlevel = "debug"')
    assert line["taken_over"] == ["log.level"]
    assert [config.log.level for config in daemon.taken_over] == ["debug"]
    (line,) = daemon.reload('node = "a"\n[log]\nlevel = "debug"')
    assert line["taken_over"] == []
    (line,) = daemon.reload('node = "a"')
    assert line["taken_over"] == ["log.level"]


def test_what_needs_a_restart_is_named_until_then(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "c.toml", 'node = "a"')
    changed = 'node = "a"\n[broker]\nhost = "elsewhere"\n[[peer]]\nname = "b"\naddress = "h:1"'
    for _ in range(2):
        _, warning = daemon.reload(changed)
        assert warning["log_level"] == "warning"
        assert warning["keys"] == ["broker.host", "peer"]
    assert not daemon.taken_over
    assert len(daemon.reload('node = "a"')) == 1


def test_a_mistake_changes_nothing(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "c.toml", 'node = "a"')
    (line,) = daemon.reload('node = "a"\nnonsense = 1\n[log]\nlevel = "debug"')
    assert line["log_level"] == "error"
    assert "nonsense" in str(line["problem"])
    assert not daemon.taken_over


def test_changed_keys_have_their_tables() -> None:
    one = ControllerConfig.model_validate({"node": "a"})
    chap = {"user": "u", "secret_file": "/s"}
    two = ControllerConfig.model_validate({"node": "a", "target": {"chap": chap}})
    three = ControllerConfig.model_validate(
        {"node": "a", "target": {"chap": {**chap, "user": "v"}}}
    )
    assert changed_keys(one, one) == []
    assert changed_keys(one, two) == ["target.chap"]
    assert changed_keys(two, three) == ["target.chap.user"]
