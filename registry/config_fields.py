"""How marshmallow takes a configuration: sections become dataclasses, fields are functions that refuse in words."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, fields, post_load

from registry import config_values as values
from registry.config_text import Pairs


class Section(Schema):
    """Load an object into the dataclass `makes`; a field `stall_timeout` is the key `stallTimeout`."""

    makes: ClassVar[Any]

    #: The key of a field that takes, by keys of the user's own, what stands among the section's keys.
    OWN_KEYS: ClassVar[str] = "\0"

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Spell a key as zot does, unless the field says how."""
        first, *rest = field_name.split("_")
        if field_obj.data_key is None:
            field_obj.data_key = first + "".join(map(str.capitalize, rest))

    @post_load
    def make(self, data: dict[str, Any], **kwargs: Any) -> object:
        """Build the dataclass; its own defaults stand for what is absent."""
        made: object = self.makes(**data)
        return made

    @property
    def keys(self) -> dict[str, fields.Field[Any]]:
        """Give the fields by the spelling of their keys."""
        return {str(field.data_key): field for field in self.fields.values()}

    def take(self, value: object) -> object:
        """Load what has to be an object.

        Raises ValueError if it is none, and ValidationError with the problems in it.
        """
        if not isinstance(value, Mapping):
            raise values.expected("an object", value)
        return self.load(value)


class ValueField(fields.Field[Any]):
    """Take a value by a function that raises ValueError."""

    def __init__(self, parse: Callable[[object], object], **options: Any) -> None:
        """Keep the function."""
        super().__init__(error_messages={"null": "expected a value, got null", "required": "is missing"}, **options)
        self.parse = parse

    def _deserialize(self, value: object, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> object:
        try:
            return self.parse(value)
        except ValueError as error:
            raise ValidationError(str(error)) from error


class SectionField(ValueField):
    """Take an object by a schema of its own."""

    def __init__(self, section: type[Section], **options: Any) -> None:
        """Keep the schema, which also knows the spelling of the keys."""
        self.section = section()
        super().__init__(self.section.take, **options)


class MapField(ValueField):
    """Take an object whose keys are the user's own (and case-sensitive) and whose values share a schema."""

    def __init__(self, parse_key: Callable[[str], str], section: type[Section], **options: Any) -> None:
        """Keep the function that takes a key, and the schema of the values."""
        super().__init__(self._entries, **options)
        self.parse_key = parse_key
        self.section = section()

    def _entries(self, value: object) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise values.expected("an object", value)
        entries: dict[str, Any] = {}
        errors: dict[str, Any] = {}
        for key, item in value.items():
            try:
                entries[key] = self._entry(key, item)
            except ValidationError as error:
                errors[key] = error.messages
        if errors:
            raise ValidationError(errors)
        return MappingProxyType(entries)

    def _entry(self, key: str, item: object) -> object:
        """Take both key and value, so that what is wrong with either is told."""
        fault = self._key_fault(key)
        try:
            entry = self.section.take(item)
        except ValidationError as error:
            raise ValidationError({**error.messages_dict, **fault}) from error
        except ValueError as error:
            raise ValidationError({"_schema": [str(error)], **fault}) from error
        if fault:
            raise ValidationError(fault)
        return entry

    def _key_fault(self, key: str) -> dict[str, list[str]]:
        try:
            self.parse_key(key)
        except ValueError as error:
            return {"_schema": [str(error)]}
        return {}


class ValuesField(ValueField):
    """Take an object whose keys are the user's own, and whose values are taken by a function."""

    def __init__(
        self, parse_key: Callable[[str], str], parse_value: Callable[[object], object], **options: Any
    ) -> None:
        """Keep the functions; two keys that are parsed to the same are one that is given twice."""
        super().__init__(self._entries, **options)
        self.parse_key = parse_key
        self.parse_value = parse_value

    def _entries(self, value: object) -> Mapping[str, Any]:
        if not isinstance(value, Pairs):
            raise values.expected("an object", value)
        entries: dict[str, Any] = {}
        errors: dict[str, list[str]] = {}
        for key, item in value:
            try:
                name = self._key(key, entries)
                entries[name] = None
                entries[name] = self.parse_value(item)
            except ValueError as error:
                errors.setdefault(str(key), []).append(str(error))
        if errors:
            raise ValidationError(errors)
        return MappingProxyType(entries)

    def _key(self, key: object, entries: Mapping[str, Any]) -> str:
        if not isinstance(key, str):
            raise values.expected("a string as a key", key)
        name = self.parse_key(key)
        if name in entries:
            raise ValueError("is given twice")
        return name


class ListField(ValueField):
    """Take a list of objects that share a schema."""

    def __init__(self, section: type[Section], **options: Any) -> None:
        """Keep the schema of the values."""
        super().__init__(self._entries, **options)
        self.section = section()

    def _entries(self, value: object) -> tuple[Any, ...]:
        if not values.is_list(value):
            raise values.expected("a list of objects", value)
        entries: list[Any] = []
        errors: dict[int, Any] = {}
        for number, item in enumerate(value):
            try:
                entries.append(self.section.take(item))
            except ValidationError as error:
                errors[number] = error.messages
            except ValueError as error:
                errors[number] = [str(error)]
        if errors:
            raise ValidationError(errors)
        return tuple(entries)


class NotBuilt(ValueField):
    """Stand for a key that zot knows and this registry does not carry out: refused, never ignored."""

    _MESSAGE = "a key of zot's that is not built yet: remove it"

    def __init__(self, **options: Any) -> None:
        """Refuse any value."""
        super().__init__(self._refuse, **options)
        self.error_messages["null"] = self._MESSAGE

    def _refuse(self, value: object) -> object:
        raise ValueError(self._MESSAGE)
