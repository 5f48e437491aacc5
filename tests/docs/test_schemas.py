"""docs/schemas/ and `rpc.discover`: what is published about the interfaces is what the code has."""

from __future__ import annotations

import json

import jsonschema
import verb_schemas

from simplerd.admin.methods import DISCOVERY, TABLE


def test_the_published_schemas_are_those_of_the_code() -> None:
    published = {path.name: path.read_text() for path in verb_schemas.FOLDER.glob("*.json")}
    assert published == verb_schemas.schemas(), "run python tests/docs/verb_schemas.py"


def test_every_schema_is_one() -> None:
    for text in verb_schemas.schemas().values():
        jsonschema.Draft202012Validator.check_schema(json.loads(text))


def test_every_method_is_described_with_its_role_parameters_result_and_errors() -> None:
    components = json.loads(json.dumps(DISCOVERY["components"]))
    described = {method["name"]: method for method in json.loads(json.dumps(DISCOVERY["methods"]))}
    assert set(described) == {method.name for method in TABLE}
    for method in TABLE:
        one = described[method.name]
        assert one["x-role"] == method.role.value
        assert one["summary"].endswith("."), method.name
        assert [param["name"] for param in one["params"]] == list(method.params.__struct_fields__)
        for schema in (*(param["schema"] for param in one["params"]), one["result"]["schema"]):
            jsonschema.Draft202012Validator.check_schema(schema)
        codes = [error["$ref"].removeprefix("#/components/errors/") for error in one["errors"]]
        assert set(codes) <= set(components["errors"])
        assert ("NOT_PERMITTED" in codes) == (one["x-role"] == "operate")
    for name, schema in components["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("description"), f"{name} does not say what it is"
