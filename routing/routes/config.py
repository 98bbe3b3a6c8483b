"""Which task goes to which tier, and which deployments serve a tier at what price: models.toml.

    [tasks.triage]
    tier = "small"
    instructions = "Decide what to do with a return request."
    examples = "triage.jsonl"          # relative to this file; what the keyless local deployment learns from
    text = ["request.message"]         # the input fields it reads; default: all of them
    ask_below = 0.6

    [deployments.local]
    tier = "small"
    model = "perdure-local/examples"
    input_usd_per_mtok = 0             # a price is always stated, also when it is nothing
    output_usd_per_mtok = 0

A tier's deployments are tried in the order of the file, one an attempt.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from perdure.routing.contracts import Tier
from perdure.routing.routes.examples import Example

if TYPE_CHECKING:
    pass

LOCAL = "perdure-local/"
"""Model strings that start with this are answered on this machine, without a key."""

EXAMPLES = f"{LOCAL}examples"
"""Answers by the examples of the task, inside the worker."""

GGUF = f"{LOCAL}gguf"
"""Runs the GGUF file of the deployment, in a process beside the worker."""

SHIPPED: Path = Path(__file__).parent / "models.toml"
"""The routing file in force when there is no other: keyless, for every tier."""


def _nano_usd(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        message = "write a number of US dollars per million tokens, e.g. 0.15, or 0 if it costs nothing"
        raise ValueError(message)  # pydantic turns no TypeError into a message
    nano = Decimal(value) * 1_000_000_000
    if not nano.is_finite() or nano < 0 or nano != nano.to_integral_value():
        raise ValueError("write US dollars per million tokens: 0 or more, with at most 9 decimals")
    return int(nano)


def _span(value: object) -> object:
    match = re.fullmatch(r"([1-9]\d{0,5})([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('write a time such as "15m", "12h" or "30d"')
    return timedelta(seconds=int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]])


def as_float(value: object) -> object:
    """Return the float that stands in a file, where numbers are read as decimals."""
    return float(value) if isinstance(value, Decimal) else value


def _list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _usd(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("write a number of US dollars, e.g. 2.50")
    nano = Decimal(value) * 1_000_000_000
    if not nano.is_finite() or nano < 0 or nano != nano.to_integral_value():
        raise ValueError("write US dollars: 0 or more, with at most 9 decimals")
    return int(nano)


Usd = Annotated[int, BeforeValidator(_usd)]
Price = Annotated[int, BeforeValidator(_nano_usd)]
Fraction = Annotated[float, BeforeValidator(as_float), Field(ge=0, le=1)]
Seconds = Annotated[float, BeforeValidator(as_float), Field(gt=0, le=3600)]
Span = Annotated[timedelta, BeforeValidator(_span)]
Names = Annotated[tuple[str, ...], BeforeValidator(_list)]
Kind = Literal["text", "number", "integer", "boolean", "object", "list", "any"]
Tiers = Annotated[tuple[Tier, ...], BeforeValidator(_list)]


def _reference(key: str | None) -> str | None:
    if key is not None and not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", key):
        raise ValueError('write "env:NAME" and put the key into that environment variable; keys do not belong in files')
    return key


class Table(BaseModel):
    """A named table of a routing file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str


class NewPrice(BaseModel):
    """What a deployment costs from some day on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: datetime
    """In the file a day, which begins in UTC, or a time with its offset."""
    input_price: Price = Field(alias="input_usd_per_mtok")
    output_price: Price = Field(alias="output_usd_per_mtok")
    cached_price: Price | None = Field(default=None, alias="cached_input_usd_per_mtok")

    @field_validator("since", mode="before")
    @classmethod
    def _check_since(cls, since: object) -> object:
        if isinstance(since, datetime):
            if since.tzinfo is None:
                raise ValueError("write a day, or a time with its offset, e.g. 2027-01-01T00:00:00Z")
            return since
        if isinstance(since, date):
            return datetime(since.year, since.month, since.day, tzinfo=UTC)
        raise ValueError("write a day without quotes, e.g. 2027-01-01")


class Deployment(Table):
    """A pinned model behind a provider. One attempt of a step is one call to one deployment."""

    tier: Tier
    model: str = Field(pattern=r"^[^/\s]+/\S+$")
    """LiteLLM's model string, `PROVIDER/MODEL`."""
    file: Path | None = None
    """The GGUF file that `perdure-local/gguf` runs, relative to the routing file."""
    api_base: str | None = Field(default=None, pattern=r"^https?://")
    api_key: str | None = Field(default=None, repr=False)
    """`env:NAME`: read from that variable when a call is made, and kept nowhere."""
    input_price: Price = Field(alias="input_usd_per_mtok")
    """Nano-USD per million prompt tokens; in the file US dollars per million."""
    output_price: Price = Field(alias="output_usd_per_mtok")
    """Nano-USD per million completion tokens; in the file US dollars per million."""
    cached_price: Price | None = Field(default=None, alias="cached_input_usd_per_mtok")
    """The same for prompt tokens that the provider had cached; None: they cost as much as others."""
    prices: tuple[NewPrice, ...] = ()
    """Later prices; each holds from its day on."""
    region: str = ""
    """Where it is served, in your own words, for tasks with `residency`."""
    timeout: Seconds = 60.0
    """Seconds that one call may take from end to end."""
    context: int = Field(default=128_000, ge=256)
    """How many tokens prompt and answer may have together."""
    max_tokens: int = Field(default=1024, ge=1)
    """How many tokens an answer may have."""
    batch_price: Annotated[Decimal | None, Field(gt=0, le=1)] = None
    """The share of the price that calls in a batch cost; None: it takes no batches."""
    batch_size: int = Field(default=100, ge=1, le=10_000)
    """So many calls make a batch."""
    batch_wait: Span = timedelta(minutes=1)
    """So long the first call of a batch waits for others."""
    batch_poll: Span = timedelta(seconds=30)
    """How often the provider is asked whether it has done."""
    batch_within: Span = timedelta(hours=25)
    """How long a run waits for its answer; then it asks by itself."""
    structured: Literal["schema", "tool", "json", "none"] = "schema"
    """What the provider is told of the form: its JSON schema, the same for a tool, that it is JSON, or nothing."""

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, key: str | None) -> str | None:
        return _reference(key)

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: str) -> str:
        if model.startswith(LOCAL) and model not in (EXAMPLES, GGUF):
            raise ValueError(f'the local models are "{EXAMPLES}" and "{GGUF}"')
        return model

    @model_validator(mode="before")
    @classmethod
    def _default_context(cls, table: dict[str, object]) -> dict[str, object]:
        # Memory is taken for the whole context when the file is loaded.
        return {"context": 4096, **table} if table.get("model") == GGUF else table

    @model_validator(mode="after")
    def _check_file(self) -> Deployment:
        if (self.file is not None) != self.gguf:
            raise ValueError(f'`file` names the GGUF file that `model = "{GGUF}"` runs: one goes with the other')
        if self.gguf and (self.structured == "tool" or self.batch_price is not None):
            raise ValueError(f'"{GGUF}" takes neither `structured = "tool"` nor `batch_price`')
        if self.gguf and self.max_tokens >= self.context:
            raise ValueError("`context` holds the prompt as well, so it is to be larger than `max_tokens`")
        return self

    @property
    def local(self) -> bool:
        """Whether it answers by the task's examples, inside the worker."""
        return self.model == EXAMPLES

    @property
    def gguf(self) -> bool:
        """Whether it runs a GGUF file, beside the worker."""
        return self.model == GGUF

    def with_prices_at(self, at: datetime) -> Deployment:
        """Return this deployment with the prices that hold AT that time."""
        due = [price for price in self.prices if price.since <= at]
        if not due:
            return self
        last = max(due, key=lambda price: price.since)
        held = {"input_price": last.input_price, "output_price": last.output_price, "cached_price": last.cached_price}
        return self.model_copy(update={**held, "prices": ()})

    def with_batch_prices(self) -> Deployment:
        """Return this deployment with the prices of calls in a batch."""
        share = self.batch_price if self.batch_price is not None else Decimal(1)
        held = {
            "input_price": ceil(self.input_price * share),
            "output_price": ceil(self.output_price * share),
            "cached_price": None if self.cached_price is None else ceil(self.cached_price * share),
        }
        return self.model_copy(update=held)

    def cost(self, prompt_tokens: int, completion_tokens: int, *, cached_tokens: int = 0) -> int:
        """Return what the tokens cost, in nano-USD, rounded up once. CACHED_TOKENS are part of PROMPT_TOKENS."""
        cached = self.input_price if self.cached_price is None else self.cached_price
        prompt = (prompt_tokens - cached_tokens) * self.input_price + cached_tokens * cached
        return -(-(prompt + completion_tokens * self.output_price) // 1_000_000)


class Embeddings(Table):
    """A pinned model that turns texts into vectors."""

    model: str = Field(pattern=r"^[^/\s]+/\S+$")
    """LiteLLM's model string, `PROVIDER/MODEL`."""
    dimensions: int = Field(ge=1, le=65_536)
    """How long its vectors are."""
    api_base: str | None = Field(default=None, pattern=r"^https?://")
    api_key: str | None = Field(default=None, repr=False)
    """`env:NAME`, as of a deployment."""
    input_price: Price = Field(alias="input_usd_per_mtok")
    """Nano-USD per million tokens; in the file US dollars per million."""
    timeout: Seconds = 30.0
    """Seconds that one call may take from end to end."""
    context: int = Field(default=8191, ge=16)
    """How many tokens of a text it reads; the rest is left out."""
    at_once: int = Field(default=64, ge=1, le=2048)
    """How many texts go in one call."""
    revision: str = ""
    """To be changed when the provider has changed the model under the same name: all is embedded anew then."""

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, key: str | None) -> str | None:
        return _reference(key)

    def deployment(self, at: datetime) -> Deployment:
        """Return it as what its calls are recorded as, with the prices that hold AT that time."""
        # Its tier is none that a task could have.
        return Deployment.model_construct(
            name=self.name,
            tier=cast(Tier, "embeddings"),
            model=self.model,
            api_base=self.api_base,
            api_key=self.api_key,
            input_price=self.input_price,
            output_price=0,
            timeout=self.timeout,
        ).with_prices_at(at)


class Task(Table):
    """What a prompt is for, and which tier answers it."""

    tier: Tier
    instructions: str = ""
    """What the model is told to do; inline, or from `instructions_file`."""
    inputs: dict[str, Literal["text", "number", "integer", "boolean", "object", "list", "any"]] = Field(
        default_factory=dict
    )
    """What kind of value each input is; empty: anything goes. A `?` after the name: it may be missing."""
    examples: tuple[Example, ...] = ()
    text: Names = ()
    """The input fields that are classified, as paths; none means all of them."""
    label: Names = ()
    """The output fields that make up a class; none means all but `why` and `confidence`."""
    ask_below: Fraction | None = None
    """Below this confidence a person should decide; routing passes it on with the answer."""
    cascade: Tiers = ()
    """The larger tiers that are asked, one after the other, when no answer fits or the model is too unsure."""
    escalate_below: Fraction | None = None
    """Below this stated confidence an answer counts only in the last tier of the cascade."""
    escalate: Literal["learned"] | None = None
    """`learned`: what `perdure routes learn` has found decides in place of `escalate_below`, where it beats the tier."""
    slow_after: Seconds | None = None
    """Seconds after which an answer is not waited for while another deployment of the tier was not asked yet."""
    temperature: Annotated[float, BeforeValidator(as_float), Field(ge=0, le=2)] = 0.0
    residency: Names = ()
    """The regions that its inputs may go to; empty: all. A deployment without a region is in none of them."""
    cache: Span | None = None
    """How long an answer is kept and given again to the same question of the same tenant; None: it is not."""
    validators: Names = ()
    """Functions that say what is wrong with an answer that fits its form, as `module:function`."""
    budget_usd_per_day: Usd | None = None
    """Nano-USD, in the file US dollars: short for a budget of this task that begins anew every day."""

    @field_validator("validators")
    @classmethod
    def _check_validators(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
                raise ValueError('write "module:function"')
        return names

    @model_validator(mode="after")
    def _check_cascade(self) -> Task:
        order = get_args(Tier)
        steps = [order.index(tier) for tier in (self.tier, *self.cascade)]
        if steps != sorted(set(steps)):
            raise ValueError(f"`cascade` names larger tiers than {self.tier!r}, the smaller first")
        if self.escalate_below is not None and not self.cascade:
            raise ValueError("`escalate_below` needs a `cascade`: the tiers to go to")
        if self.escalate is not None and not self.cascade:
            raise ValueError("`escalate` needs a `cascade`: the tiers to go to")
        if self.cache is not None and self.temperature:
            raise ValueError("`cache` keeps answers that would be given again; with a `temperature` they would not")
        return self

    @property
    def prompt_version(self) -> str:
        """Changes whenever the instructions do."""
        return hashlib.sha256(self.instructions.encode()).hexdigest()[:12]

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Its tier and those that it may escalate to."""
        return (self.tier, *self.cascade)


class Budget(Table):
    """How much may be spent on models, by whom."""

    per: Literal["run", "workflow", "agent", "tenant", "task", "all"]
    """Each run, workflow type, agent, tenant or task has as much for itself; `all` have it together."""
    of: str = ""
    """Only this workflow type, agent, tenant or task; empty: each of them."""
    limit: Usd = Field(alias="usd")
    """Nano-USD; in the file US dollars."""
    every: Literal["day", "month", ""] = ""
    """Whether it begins anew, in UTC; empty: it does not."""
    ask: str = ""
    """The role or person that is asked to raise it when it is used up; empty: the step fails."""
    raise_by: Usd | None = Field(default=None, alias="raise_usd")
    """By how much that person is asked to raise it, in the file US dollars; default: as much as it was."""

    @model_validator(mode="after")
    def _check_subject(self) -> Budget:
        if self.of and self.per in ("run", "all"):
            raise ValueError(f"`of` names one workflow type, agent, tenant or task; `per` is {self.per!r}")
        return self

    @property
    def raise_amount(self) -> int:
        """By how much a person is asked to raise it, in nano-USD."""
        return self.limit if self.raise_by is None else self.raise_by
