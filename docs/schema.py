"""Prints the JSON Schema of what Baton tells, made of the types in ``baton.facts``: ``make schema`` keeps it.

Fields may be added in a later version, so unknown ones are allowed.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from baton.codec import always, json_name, types_of
from baton.domain import Evidence
from baton.evidence import CHECKS, EVIDENCE, LiveCheck
from baton.facts import Backup, Diagnosis, Restored
from baton.verbs import VERBS, answer_of

_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number"}


class _Maker:
    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        if kind is Any:
            return {}
        if is_dataclass(kind):
            return self._reference(kind)
        origin, inner = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(one) for one in inner]}
        if origin is tuple:
            return {"type": "array", "items": self.of(inner[0])}
        if origin is Literal:
            return {"enum": list(inner)}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(inner[1])}
        if isinstance(kind, type) and issubclass(kind, Enum):
            self.definitions[kind.__name__] = {"enum": [one.value for one in kind]}
            return {"$ref": f"#/$defs/{kind.__name__}"}
        return {"type": "null"} if kind is type(None) else {"type": _PLAIN[kind]}

    def _reference(self, kind: Any) -> dict[str, Any]:
        if kind.__name__ not in self.definitions:
            self.definitions[kind.__name__] = {}  # it may hold itself
            self.definitions[kind.__name__] = self._object(kind)
        return {"$ref": f"#/$defs/{kind.__name__}"}

    def _object(self, kind: Any) -> dict[str, Any]:
        hints = types_of(kind)
        made = {json_name(one): self._field(one, hints[one.name]) for one in fields(kind)}
        required = [json_name(one) for one in fields(kind) if always(one)]
        described = {"description": inspect.getdoc(kind), "type": "object", "properties": made, "required": required}
        if kind is LiveCheck:
            described |= self._by_name(CHECKS, None)
        if Evidence in hints.values():
            described |= self._by_name(EVIDENCE, "evidence")
        return described

    def _field(self, one: Field[Any], hint: Any) -> dict[str, Any]:
        if hint is Evidence:
            return {"type": "object"}  # what it is stands in the rules by name
        if not always(one):  # it is left out where there is none, and never null
            return {"anyOf": [self.of(kind) for kind in get_args(hint) if kind is not type(None)]}
        return self.of(hint)

    def _by_name(self, kinds: Mapping[str, Any], field: str | None) -> dict[str, Any]:
        """An object, or one field of it, is what the object's name says; or bare, with what all have in common."""
        rules = []
        for name, kind in kinds.items():
            then: dict[str, Any] = self._reference(kind)
            if field is not None:
                then = {"properties": {field: {"anyOf": [then, self._reference(Evidence)]}}}
            rules.append({"if": {"properties": {"name": {"const": str(name)}}, "required": ["name"]}, "then": then})
        return {"allOf": rules}


def schema() -> dict[str, Any]:
    """One schema, with a definition for each fact, and for the answer of each call of the API (``call-...``)."""
    maker = _Maker()
    calls = {f"call-{name}": maker.of(answer_of(kind)) for name, kind in VERBS.items()}
    for kind in (Backup, Restored, Diagnosis):
        maker.of(kind)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What Baton tells: the API's answers, and `ctl --output json`",
        "$defs": {**dict(sorted(maker.definitions.items())), **calls},
    }


def text() -> str:
    """The file ``docs/schema.json``."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(text())
