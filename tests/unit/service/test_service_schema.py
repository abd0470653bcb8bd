"""The people's API against its own schema: Schemathesis with an operator's token finds nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from edgehone.records.database import open_database
from edgehone.service import people

EXAMPLES = 15


def test_schemathesis_finds_nothing(start: Callable[..., Any]) -> None:
    core = start()
    opened = open_database(core.place.database_url)
    with opened.write() as conn:
        token = people.make_token(conn, "ada", "tests", "operator", life_s=None, actor="core", now_s=0.0)
    opened.close()
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{core.port}/openapi.json")
    # Signing in is limited and slow on purpose, and disabling people ends the token of this test: both have own tests.
    schema = schema.exclude(path="/v1/sign-in").exclude(method="DELETE", path="/v1/people/{name}")
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:
            with contextlib.suppress(Unsatisfiable):  # a call without parameters has no wrong ones
                _try(operation, mode, token)
                tried += 1
    assert tried >= 20


def _try(operation: Any, mode: GenerationMode, token: str) -> None:
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {token}"})

    check()
