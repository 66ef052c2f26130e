"""The examples in docs are parsed by the code that reads the real thing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from controller.link.frames import MAX_PAYLOAD_BYTES, FrameError, Kind, parse
from controller.service.config import ControllerConfig
from controller.volume.bitmap import PAGE_BITS
from controller.volume.bitmap_file import SLOT_BYTES, decode_page, encode_header
from controller.volume.intent import IntentRecord
from controller.volume.slots import decode_slot
from controller.volume.superblock import FILE_BYTES, SUPERBLOCKS, IntentSettings, Superblock
from hostagent.config import AgentConfig

ROOT = Path(__file__).resolve().parents[3]
PAIR_ID = bytes(range(16))


def example(page: str, name: str) -> bytes:
    """The bytes of a hex example."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"```hex {name}\n(.*?)```", text, re.DOTALL)
    assert found, f"docs/{page} has no example '{name}'"
    return bytes.fromhex("".join(line[6:] for line in found.group(1).splitlines()))


EXAMPLE_VOLUME = Superblock.plan(PAIR_ID, 16 << 30, 1, IntentSettings(4 << 20, 256))


def test_superblock() -> None:
    slot = decode_slot(SUPERBLOCKS, example("formats.md", "superblock").ljust(4096, b"\0"))
    assert slot is not None
    assert slot[0] == 2
    assert Superblock.decode(slot[1]) == EXAMPLE_VOLUME
    page = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    assert f"`<volume id>.meta` has {FILE_BYTES:,} bytes" in page


def test_intent_slot() -> None:
    slot = decode_slot(EXAMPLE_VOLUME.ring, example("formats.md", "intent-slot").ljust(4096, b"\0"))
    assert slot is not None
    assert slot[0] == 7
    record = IntentRecord.decode(slot[1])
    assert record == IntentRecord(extent_bytes=4 << 20, clean=False, extents=(0, 3, 70))


def test_bitmap_header() -> None:
    raw = example("formats.md", "bitmap-header").ljust(SLOT_BYTES, b"\0")
    assert raw == encode_header((1 << 30) // 4096, PAIR_ID)


def test_bitmap_page() -> None:
    raw = memoryview(example("formats.md", "bitmap-page").ljust(SLOT_BYTES, b"\0"))
    bits = decode_page(raw, 2, PAIR_ID)
    assert bits == 0b1011
    assert 2 * PAGE_BITS == 64512


def test_frame_header() -> None:
    payload = b"hello, second volume".ljust(4096, b"\0")
    parsed = parse(memoryview(example("protocol.md", "frame-header") + payload))
    assert parsed is not None
    frame, size = parsed
    assert (frame.kind, frame.flags, frame.pair) == (Kind.WRITE, 1, PAIR_ID)
    assert (frame.sequence, frame.offset_bytes, frame.length_bytes) == (9, 8192, 4096)
    assert size == 64 + 4096
    with pytest.raises(FrameError, match="payload checksum"):
        parse(memoryview(example("protocol.md", "frame-header") + bytes(4096)))


def test_every_frame_kind_is_in_the_page() -> None:
    page = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
    for kind in Kind:
        assert re.search(rf"\b{kind.value}\b.*\b{kind.name}\b", page), kind
    assert MAX_PAYLOAD_BYTES == 1 << 20


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("controller", ControllerConfig),
        ("host1", AgentConfig),
        ("host2", AgentConfig),
        ("backups", AgentConfig),
        ("databases", AgentConfig),
    ],
)
def test_configurations(name: str, model: type[BaseModel]) -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    found = re.search(rf"```toml {name}\n(.*?)```", text, re.DOTALL)
    assert found, f"docs/configuration.md has no example '{name}'"
    model.model_validate(tomllib.loads(found.group(1)))


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
