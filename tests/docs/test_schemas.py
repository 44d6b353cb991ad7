"""The schemas of the stable documents are those that the op rows make now."""

import json

import jsonschema
import pytest
import write_schemas


@pytest.mark.parametrize("command", write_schemas.STABLE)
def test_what_is_committed_is_what_the_rows_say(command: str) -> None:
    op = write_schemas.ops()[command]
    committed = write_schemas.file_of(command).read_text()
    assert committed == write_schemas.text(op), "the wire has changed: python tests/docs/write_schemas.py, and look"
    assert op.schema == f"lw.{command}/1"
    jsonschema.Draft202012Validator.check_schema(json.loads(committed))


def test_a_document_of_another_schema_is_refused() -> None:
    schema = json.loads(write_schemas.file_of("trace").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": "lw.show/1"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": "lw.trace/1"}, schema)
