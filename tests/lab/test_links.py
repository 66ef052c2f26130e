"""What is broken between hosts, as text; and the sentences for what can't be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.labs import needs, process, roles
from deploy.labs.lab import Lab, alone
from deploy.labs.layer import Layer
from deploy.labs.links import Links
from deploy.labs.network import mac
from deploy.labs.problem import LabError

pytestmark = pytest.mark.plain


def links() -> Links:
    return Links({"a": "10.77.0.11", "b": "10.77.0.12", "c": "10.77.0.13"})


def test_a_cut_drops_what_arrives_and_nothing_else() -> None:
    state = links()
    state.cuts.add(state.between("a", "b"))
    script = state.script("a")
    where, rule = "ingress pref 12 protocol all handle 1", f"flower src_mac {mac('10.77.0.12')}"
    assert f"tc filter replace dev vec0 {where} {rule} action drop\n" in script
    assert "filter del dev vec0 ingress pref 13" in script
    assert "netem delay" not in script
    assert f"src_mac {mac('10.77.0.11')} action drop" in state.script("b")
    assert "action drop" not in state.script("c")


def test_a_delay_is_for_frames_to_that_host() -> None:
    state = links()
    state.delay("a", "c", 12.5)
    assert "netem delay 12.5ms" in state.script("a")
    assert f"dst_mac {mac('10.77.0.13')} classid 1:2" in state.script("a")
    assert "netem delay" not in state.script("b")
    state.delay("c", "a", 0)
    assert "netem delay" not in state.script("a")


def test_it_remembers_and_tells() -> None:
    state = links()
    state.cuts.add(state.between("b", "a"))
    state.delay("a", "c", 20)
    again = links()
    again.load(state.save())
    assert again == state
    assert again.broken() == ["a - b: cut", "a - c: 20 ms each way"]
    again.mend(again.between("a", "b"))
    again.mend(again.between("a", "c"))
    assert again == links()


@pytest.mark.parametrize(
    ("one", "other", "delay_ms", "said"),
    [
        ("a", "x", 1, "there is no host 'x'\nnext: name one of: a, b, c"),
        ("a", "a", 1, "'a' has no link to itself"),
        ("a", "b", -1, "a delay is 0 to 10000 ms"),
        ("a", "b", float("nan"), "a delay is 0 to 10000 ms"),
    ],
)
def test_wrong_links_are_refused(one: str, other: str, delay_ms: float, said: str) -> None:
    with pytest.raises(LabError, match=said):
        links().delay(one, other, delay_ms)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATH", "/nowhere")
    monkeypatch.setattr(needs, "PATH", "/nowhere")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(LabError) as caught:
        needs.check(whole_lab=True)
    assert "user-mode-linux" in str(caught.value)
    assert caught.value.next_step == "deploy/setup tools lab"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root"):
        needs.check()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("x")
    with pytest.raises(LabError, match="is there and is no lab"):
        Lab._make(tmp_path, ["primary"], "embedded")
    assert not Lab.down(tmp_path)
    assert (tmp_path / "theirs").exists()
    with pytest.raises(LabError, match="no lab is up"):
        Lab.open(tmp_path)


def test_the_lock_leaves_nothing(tmp_path: Path) -> None:
    with alone(tmp_path / "lab"):
        assert (tmp_path / "lab.lock").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["embedded", "lio"])
def test_a_controllers_files_are_those_of_an_installation(tmp_path: Path, target: str) -> None:
    layer = Layer(tmp_path)
    names = list(roles.USUAL)
    layer.build("primary", {name: roles.ADDRESSES[name] for name in names})
    roles.furnish(layer, "primary", names, target)
    system = tmp_path / "etc/systemd/system"
    ours = (roles.SYSTEMD / "trilund@.service").read_text()
    assert (system / "trilund@.service").read_text() == ours
    assert [link.name for link in system.glob("*.wants/trilund@*")] == ["trilund@primary.service"]
    assert (system / "trilund@primary.service.d/lio.conf").exists() == (target == "lio")
    assert 'name = "secondary"' in (tmp_path / "etc/trilun/primary.toml").read_text()
