"""The text of a configuration: JSON or YAML, read as pairs so that a key given twice is seen."""

import json
from collections.abc import Callable

import yaml


class Pairs(list[tuple[object, object]]):
    """Hold an object of the text as it stood there: keys may repeat."""


def parse_json(text: str) -> object:
    """Read JSON, with Pairs for objects.

    Raises ValueError.
    """
    return _carefully("JSON", _load_json, text)


def parse_yaml(text: str) -> object:
    """Read YAML without anchors, aliases and tags, with Pairs for mappings.

    Raises ValueError.
    """
    return _carefully("YAML", _load_yaml, text)


def _carefully(form: str, load: Callable[[str], object], text: str) -> object:
    try:
        return load(text)
    except (ValueError, yaml.YAMLError) as error:
        detail = " ".join(str(error).replace("^", "").split()).replace('in "<unicode string>", ', "in ")
        raise ValueError(f"is not valid {form}: {detail}") from error
    except RecursionError as error:
        raise ValueError(f"is not valid {form}: nested too deeply") from error


def _load_json(text: str) -> object:
    return json.loads(text, object_pairs_hook=Pairs, parse_constant=_refuse_constant)


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not a number of JSON's")


class _PlainLoader(yaml.SafeLoader):
    """Read YAML as the data that JSON could hold: an alias could grow without bound, a tag could mean anything."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise yaml.YAMLError(f"expected no anchor, alias or tag, got one {event.start_mark}")
        return super().compose_node(parent, index)

    def construct_pairs_of(self, node: yaml.MappingNode) -> Pairs:
        """Keep a mapping's keys as they stand, whether they repeat or not."""
        return Pairs((self.construct_object(key), self.construct_object(value, deep=True)) for key, value in node.value)


_PlainLoader.add_constructor("tag:yaml.org,2002:map", _PlainLoader.construct_pairs_of)


def _load_yaml(text: str) -> object:
    return yaml.load(text, Loader=_PlainLoader)
