"""The databases of a configuration: defaults, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hostagent.config import DataSetConfig
from tests.unit.hostagent.world import DATA_SET

PLAIN = DATA_SET.model_dump(exclude_unset=True)


def databases(*sections: dict[str, Any]) -> DataSetConfig:
    return DataSetConfig.model_validate({**PLAIN, "database": list(sections)})


def test_debians_units_are_known() -> None:
    found = databases(
        {"kind": "postgresql", "path": "pg/15/main"},
        {"kind": "mariadb", "path": "mysql"},
        {"kind": "postgresql", "path": "own", "start": ["up"], "stop": ["down"]},
        {"kind": "sqlite", "path": "app/a b.db"},
        {"kind": "hook", "path": "store", "command": ["/usr/local/lib/store"]},
    ).database
    assert [one.unit for one in found] == [
        "postgresql@15-main.service", "mariadb.service", None, None, None
    ]  # fmt: skip
    assert [one.name for one in found] == ["main", "mysql", "own", "a-b-db", "store"]


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ([{"kind": "sqlite", "path": "/srv/app.db"}], "relative to the volume's root"),
        ([{"kind": "sqlite", "path": "../app.db"}], "relative to the volume's root"),
        ([{"kind": "sqlite", "path": "."}], "must name the database's file"),
        ([{"kind": "sqlite", "path": "a", "start": ["up"]}], "go together"),
        ([{"kind": "mariadb", "path": "a", "unit": "x.service", "stop": ["s"]}], "not both"),
        ([{"kind": "hook", "path": "a", "command": []}], "at least 1"),
        ([{"kind": "hook", "path": "a", "command": ["c"], "does": ["sing"]}], "freeze"),
        ([{"kind": "oracle", "path": "a"}], "oracle"),
        ([{"kind": "mariadb", "path": "."}, {"kind": "sqlite", "path": "a"}], "overlap"),
        (
            [
                {"kind": "sqlite", "path": "x/a", "name": "a"},
                {"kind": "sqlite", "path": "y/a", "name": "a"},
            ],
            "is there twice",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(sections: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        databases(*sections)
