"""How values are recorded: by the client's own converter, codec and storage, with perdure's around them.

What a client brings holds. Its codec encodes and its storage keeps what it did without perdure. Its payload converter
converts what is not perdure's own, and what is goes through it as plain JSON, so that one that encrypts encrypts that too.
A client that brings none gets pydantic's, and large payloads go to the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Self, cast, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import (
    DataConverter,
    DefaultPayloadConverter,
    ExternalStorage,
    PayloadConverter,
    SerializationContext,
    WithSerializationContext,
)

# Its place is around all converters, and there is no public way to put it there.
from temporalio.converter._payload_converter import _TemporalTransferTypePayloadConverter
from temporalio.exceptions import ApplicationError

from perdure.errors import InvalidSettings
from perdure.governance.payloads import LazyDatabase, PayloadStore
from perdure.settings import Settings


def build_data_converter(
    settings: Settings, database: LazyDatabase, *, around: DataConverter = DataConverter.default
) -> DataConverter:
    """Return the converter of perdure's clients, workers and replayers, AROUND the one that the client would have.

    It stays around what other plugins put into it later. Raises `InvalidSettings` where the two cannot both hold.
    """
    known = type(around)
    own = next((each for each in known.__mro__ if each.__dict__.get("is_perdure")), None)
    base = known if own is None else own.__bases__[1]
    kind = type(
        "PerdureDataConverter",
        (_AroundConverter, base),
        {
            "is_perdure": True,
            "limit": settings.payload_limit,
            "store": PayloadStore(database),
            "threshold": settings.payload_threshold,
        },
    )
    try:
        built = kind(**{each.name: getattr(around, each.name) for each in fields(around) if each.init})
    except TypeError as error:
        raise InvalidSettings(
            f"the client's data_converter, a {known.__module__}.{known.__qualname__}, cannot be combined with perdure's: "
            f"{error}. Let it take its fields as temporalio.converter.DataConverter does."
        ) from None
    return cast(DataConverter, built)


def is_private(converter: DataConverter) -> bool:
    """Say whether CONVERTER records values in a way of the client's own, so that what goes around it would be in clear."""
    plain = converter.payload_converter_class is DefaultPayloadConverter
    plain = plain or issubclass(converter.payload_converter_class, PydanticPayloadConverter)
    return converter.payload_codec is not None or not plain


class _AroundConverter:
    """What perdure adds to a class of data converters.

    A subclass with the fields of its base, because another plugin looks at these and replaces them: whatever it puts there,
    this is around it.
    """

    limit: ClassVar[int]
    store: ClassVar[PayloadStore]
    threshold: ClassVar[int]

    payload_converter_class: type[PayloadConverter]
    external_storage: ExternalStorage | None

    def __post_init__(self) -> None:
        storage = _compose_storage(self.external_storage, self.store, self.threshold)
        object.__setattr__(self, "external_storage", storage)
        super().__post_init__()  # type: ignore[misc]  # of the data converter that it is put before

    def _new_payload_converter(self) -> PayloadConverter:
        theirs: PayloadConverter = super()._new_payload_converter()  # type: ignore[misc]  # as above
        if self.payload_converter_class is DefaultPayloadConverter:
            ours: CheckedPayloadConverter = PydanticFirst(theirs, limit=self.limit)
        elif issubclass(self.payload_converter_class, PydanticPayloadConverter):
            ours = CheckedPayloadConverter(theirs, limit=self.limit)
        else:
            ours = JsonThrough(theirs, limit=self.limit)
        return _TemporalTransferTypePayloadConverter.wrap(ours)


class CheckedPayloadConverter(PayloadConverter, WithSerializationContext):
    """THEIRS, but a value above LIMIT bytes fails for good, where the workflow task would be retried for ever."""

    def __init__(self, theirs: PayloadConverter, *, limit: int) -> None:
        self.theirs = theirs
        self.limit = limit

    def to_payloads(self, values: Sequence[Any]) -> list[Payload]:
        """Return the payloads of VALUES. Raises `PayloadTooLarge` as a final failure."""
        payloads = self.convert(values)
        for number, payload in enumerate(payloads):
            if len(payload.data) > self.limit:
                kind = type(values[number]).__name__ if len(values) == len(payloads) else "value"
                raise ApplicationError(
                    f"a {kind} of {len(payload.data):,} bytes is above the limit of {self.limit:,} bytes a "
                    "payload. Store it elsewhere and pass a reference, or raise payload_limit.",
                    type="PayloadTooLarge",
                    non_retryable=True,
                )
        return payloads

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Return the values of PAYLOADS."""
        return self.theirs.from_payloads(payloads, type_hints)

    def convert(self, values: Sequence[Any]) -> list[Payload]:
        """Return the payloads of VALUES, however large."""
        return self.theirs.to_payloads(values)

    def with_context(self, context: SerializationContext) -> Self:
        """Return one around what THEIRS is in CONTEXT."""
        theirs = self.theirs.with_context(context) if isinstance(self.theirs, WithSerializationContext) else self.theirs
        return self if theirs is self.theirs else type(self)(theirs, limit=self.limit)


class PydanticFirst(CheckedPayloadConverter):
    """Pydantic's converter, and the SDK's own for what pydantic does not know, as a client that brings none has it."""

    def __init__(self, theirs: PayloadConverter, *, limit: int) -> None:
        super().__init__(theirs, limit=limit)
        self._pydantic = PydanticPayloadConverter()

    def convert(self, values: Sequence[Any]) -> list[Payload]:
        """Return the payloads of VALUES, however large."""
        return [self._to_payload(value) for value in values]

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Return the values of PAYLOADS. Raises `InvalidInput`, naming the fields, as a final failure."""
        hints: list[type | None] = [*(type_hints or ()), *[None] * (len(payloads) - len(type_hints or ()))]
        return [self._from_payload(payload, hint) for payload, hint in zip(payloads, hints, strict=False)]

    def _to_payload(self, value: object) -> Payload:
        try:
            return self._pydantic.to_payload(value)
        except PydanticSerializationError:
            return self.theirs.to_payload(value)

    def _from_payload(self, payload: Payload, hint: type | None) -> Any:
        hints = None if hint is None else [hint]
        try:
            return self._pydantic.from_payloads([payload], hints)[0]
        except ValidationError as error:
            raise _to_failure(error) from None
        except (PydanticUserError, PydanticUndefinedAnnotation):
            return self.theirs.from_payloads([payload], hints)[0]


class JsonThrough(CheckedPayloadConverter):
    """A converter that need not know pydantic: it is given perdure's models as plain JSON, and everything else as it is."""

    def convert(self, values: Sequence[Any]) -> list[Payload]:
        """Return the payloads of VALUES, however large."""
        return self.theirs.to_payloads([to_jsonable_python(each) if _holds_ours(each) else each for each in values])

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Return the values of PAYLOADS. Raises `InvalidInput` as a final failure if what is for perdure does not fit."""
        hints = type_hints or []
        if not any(_names_ours(hint) for hint in hints):
            return self.theirs.from_payloads(payloads, type_hints)
        plain = [cast(type, Any) if _names_ours(hint) else hint for hint in hints]
        values = self.theirs.from_payloads(payloads, plain)
        return [_validate(hint, value) if _names_ours(hint) else value for hint, value in zip(hints, values, strict=True)]


def _compose_storage(theirs: ExternalStorage | None, store: PayloadStore, threshold: int) -> ExternalStorage:
    """Return a storage that stores what THEIRS does, or STORE without theirs, and reads what either has stored."""
    if theirs is not None and any(each is store for each in theirs.drivers):
        return theirs
    drivers = [each for each in theirs.drivers if not isinstance(each, PayloadStore)] if theirs else []
    if theirs is None or not drivers:
        return ExternalStorage(drivers=[store], payload_size_threshold=threshold)
    if any(each.name() == store.name() for each in drivers):
        raise InvalidSettings(
            f"the client's external_storage has a driver called {store.name()!r}, as perdure's is called. Give it another "
            "name; what it has stored is read under the old one, so let both be there until no history needs it."
        )
    selector = theirs.driver_selector or (lambda _context, _payload: drivers[0])
    return replace(theirs, drivers=[*drivers, store], driver_selector=selector)


def _is_ours(kind: type) -> bool:
    return issubclass(kind, BaseModel) and any(each.__module__.partition(".")[0] == "perdure" for each in kind.__mro__)


def _holds_ours(value: object) -> bool:
    if isinstance(value, BaseModel):
        return _is_ours(type(value))
    if isinstance(value, dict):
        return any(_holds_ours(each) for each in value.values())
    return isinstance(value, list | tuple | set | frozenset) and any(_holds_ours(each) for each in value)


def _names_ours(hint: object) -> bool:
    if isinstance(hint, type) and not get_args(hint):
        return _is_ours(hint)
    return any(_names_ours(each) for each in get_args(hint))


def _validate(hint: type, value: object) -> object:
    try:
        # By way of JSON, in which a time or a tuple is what it is on the wire.
        return _adapter(hint).validate_json(to_json(value))
    except ValidationError as error:
        raise _to_failure(error) from None


@lru_cache(maxsize=256)
def _adapter(hint: type) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _to_failure(error: ValidationError) -> ApplicationError:
    """Return ERROR without the values it quotes, which may be secret."""
    where = "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'the value'}: {item['msg']}" for item in error.errors(include_input=False)
    )
    return ApplicationError(f"{error.title} does not fit: {where}", type="InvalidInput", non_retryable=True)
