"""Writes what the chart states twice: the table of its README from values.yaml, and the settings in its schema."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tta_server.settings import Settings, public_name

CHART = Path(__file__).parents[1] / "helm" / "tta-server"
OWN_KEYS = frozenset({"models", "model", "port", "grpc", "grpc_port", "keys", "tls_cert", "tls_key"})
"""Settings that other keys of the chart make."""
BEGIN, END = "<!-- values: written by make chart -->", "<!-- end of values -->"
LINE = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z0-9]+):")


def settings_schema() -> dict[str, Any]:
    """The JSON schema of the chart's key `settings`."""
    schema = Settings.model_json_schema(by_alias=True)
    found, definitions = schema["properties"], schema.get("$defs", {})
    fields = {public_name(field): field for field in Settings.model_fields}
    kept = {name: _plain(found[name], definitions) for name, field in fields.items() if field not in OWN_KEYS}
    return {
        "type": "object",
        "description": "Settings of `tta-server serve`, by name.",
        "additionalProperties": False,
        "required": ["drain_seconds"],
        "properties": kept,
    }


def _plain(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Without titles and defaults, which depend on the machine; what may be null may be left out instead."""
    for choice in schema.get("anyOf", []):
        if choice != {"type": "null"}:
            schema = {"description": schema["description"]} | choice
    if reference := schema.get("$ref"):
        schema = definitions[reference.rpartition("/")[2]] | {"description": schema["description"]}
    return {key: value for key, value in schema.items() if key not in ("title", "default", "format")}


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Key, default and description of each value of values.yaml whose comment begins with `# --`."""
    values, path, about = yaml.safe_load(text), list[str](), ""
    for line in text.splitlines():
        if (comment := line.strip()).startswith("# -- "):
            about = comment.removeprefix("# -- ")
        elif found := LINE.match(line):
            del path[len(found["indent"]) // 2 :]
            path.append(found["key"])
            if about:
                yield ".".join(path), json.dumps(_value(values, path)), about
            about = ""


def _value(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


def readme(text: str, values: str) -> str:
    """The README with the table between its marks."""
    table = ["| key | default | |", "|---|---|---|"]
    table += [f"| `{key}` | `{default}` | {about.replace('|', '&#124;')} |" for key, default, about in rows(values)]
    before, _, rest = text.partition(BEGIN)
    return "\n".join([before + BEGIN, "", *table, "", END]) + rest.partition(END)[2]


def schema(text: str) -> str:
    """The schema with the server's settings."""
    found = json.loads(text)
    found["properties"]["settings"] = settings_schema()
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def written() -> dict[Path, str]:
    """The files with what they should hold."""
    values, page, shape = CHART / "values.yaml", CHART / "README.md", CHART / "values.schema.json"
    return {page: readme(page.read_text(), values.read_text()), shape: schema(shape.read_text())}


def main() -> int:
    for path, text in written().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
