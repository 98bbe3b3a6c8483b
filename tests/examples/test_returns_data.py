"""The returns desk's mails, labels, orders and examples agree with one another."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "examples" / "returns_desk" / "data"
VERDICTS = {"refund", "reject", "ask"}

# Of the unseen mails and their verdicts, taken before the local model first ran.
# A change here makes the measured accuracy void.
UNSEEN = "198c4bd8ac507badaed4e124119daae14a497dc2e0c6a42ac76e9517a9e73305"

Row = dict[str, Any]


def rows(name: str) -> list[Row]:
    """Return the objects of the JSON Lines file NAME."""
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


REQUESTS = {row["id"]: row for row in rows("requests.jsonl")}
LABELS = {row["id"]: row for row in rows("labels.jsonl")}
ORDERS = {row["order"]: row for row in json.loads((DATA / "orders.json").read_text("utf-8"))}
EXAMPLES = rows("examples.jsonl")
MORE = [row for row in EXAMPLES if row["inputs"]["request"]["id"].startswith("ex-")]
COPIES = [(id, label["duplicate_of"]) for id, label in LABELS.items() if label["duplicate_of"]]


def part(name: str) -> list[Row]:
    """Return the requests of the part NAME."""
    return [REQUESTS[id] for id, label in LABELS.items() if label["part"] == name]


def words(request: Row) -> list[str]:
    """Return the words of REQUEST, subject first."""
    return re.findall(r"\w+", f"{request['subject']} {request['message']}".casefold())


def runs(request: Row, length: int) -> set[tuple[str, ...]]:
    """Return every LENGTH words of REQUEST that follow one another."""
    said = words(request)
    return {tuple(said[at : at + length]) for at in range(len(said) - length + 1)}


def test_ids() -> None:
    """Sixty requests are numbered in the order in which they came, and each has its label."""
    assert [f"rq-{number:02}" for number in range(1, 61)] == list(REQUESTS) == list(LABELS)
    received = [date.fromisoformat(request["received"]) for request in REQUESTS.values()]
    assert sorted(received) == received


def test_fields() -> None:
    """Every mail has the same fields, says something, and has its amount in minor units: 0 where the order is missing."""
    for mail in [*REQUESTS.values(), *(row["inputs"]["request"] for row in MORE)]:
        assert ["id", "received", "order", "customer", "amount", "currency", "subject", "message"] == list(mail)
        assert re.fullmatch(r"R-\d{4}|", mail["order"]) and re.fullmatch(r"c-\d{2,3}", mail["customer"])
        assert type(mail["amount"]) is int and "EUR" == mail["currency"]
        assert (mail["amount"] > 0) == bool(mail["order"])
        assert mail["subject"].strip() and mail["message"].strip() and date.fromisoformat(mail["received"])


def test_orders() -> None:
    """Every order that a request names exists, is the sender's, and cost what the request says; no other order exists."""
    named = [request for request in REQUESTS.values() if request["order"]]
    assert {request["order"] for request in named} == set(ORDERS)
    for request in named:
        order = ORDERS[request["order"]]
        assert [request[key] for key in ("customer", "amount", "currency")] == [
            order[key] for key in ("customer", "amount", "currency")
        ]
        assert order["bought_on"] <= (order["delivered_on"] or order["bought_on"]) <= request["received"]
        assert order["item"] and order["stock"] >= 0 and isinstance(order["final_sale"], bool)


def test_labels() -> None:
    """Edge cases are what a person decides; whoever is asked has an answer; that decides about the money."""
    for id, label in LABELS.items():
        request, verdict = REQUESTS[id], label["verdict"]
        assert verdict in VERDICTS and label["language"] in {"en", "de"} and label["why"].endswith(".")
        assert (verdict == "ask") == label["edge_case"]
        asked = not label["duplicate_of"] and (verdict == "ask" or (verdict == "refund" and request["amount"] > 10_000))
        assert asked == (label["reviewer"] in {"approve", "reject"})
        granted = label["reviewer"] == "approve" if asked else verdict == "refund"
        assert (granted and not label["duplicate_of"]) == label["refund_wanted"]
        assert not label["refund_wanted"] or request["order"]


def test_one_refund_an_order() -> None:
    """The books want at most one refund of an order."""
    refunded = Counter(REQUESTS[id]["order"] for id, label in LABELS.items() if label["refund_wanted"])
    assert 29 == len(refunded) == refunded.total()


def test_copies() -> None:
    """A request that came twice is of the same order, nearly the same in words, and in the same part as the first."""
    assert 3 == len(COPIES)
    for copy, original in COPIES:
        assert copy > original and REQUESTS[copy]["order"] == REQUESTS[original]["order"]
        assert [LABELS[copy][key] for key in ("part", "verdict")] == [LABELS[original][key] for key in ("part", "verdict")]
        shared = runs(REQUESTS[copy], 4) & runs(REQUESTS[original], 4)
        assert len(shared) > len(runs(REQUESTS[original], 4)) / 2


def test_split() -> None:
    """Both parts have every verdict in both languages, in about the same shares."""
    found = Counter((label["part"], label["language"], label["verdict"]) for label in LABELS.values())
    assert {"example": 36, "unseen": 24} == Counter(label["part"] for label in LABELS.values())
    assert {"en": 46, "de": 14} == Counter(label["language"] for label in LABELS.values())
    assert all(found[cell] >= 2 for cell in product(("example", "unseen"), ("en", "de"), VERDICTS))


def test_unseen_stays_as_it_was() -> None:
    """The unseen mails and their verdicts are those that were written before the local model first ran."""
    frozen = [[one["order"], one["subject"], one["message"], LABELS[one["id"]]["verdict"]] for one in part("unseen")]
    assert UNSEEN == hashlib.sha256(json.dumps(sorted(frozen), ensure_ascii=False).encode()).hexdigest()


def test_unseen_is_unseen() -> None:
    """No example shares an order or more than a turn of phrase (nine words) with an unseen mail."""
    shown = [row["inputs"]["request"] for row in EXAMPLES]
    assert not {one["order"] for one in shown} & {one["order"] for one in part("unseen") if one["order"]} - {""}
    known = set().union(*(runs(one, 10) for one in shown))
    assert not {" ".join(run) for one in part("unseen") for run in runs(one, 10) & known}


def test_examples_are_the_example_part() -> None:
    """The local model learns from the example part as it is labelled, then from past mails that are not in the demo."""
    learned = [row for row in EXAMPLES if row not in MORE]
    labelled = [
        {"inputs": {"request": one}, "output": {key: LABELS[one["id"]][key] for key in ("verdict", "edge_case", "why")}}
        for one in part("example")
    ]
    assert labelled == learned == EXAMPLES[: len(learned)]
    assert [f"ex-{number:03}" for number in range(1, len(MORE) + 1)] == [row["inputs"]["request"]["id"] for row in MORE]


def test_past_mails() -> None:
    """Past mails are all different, are of no order of the demo, and have outputs of the same form as the labels."""
    assert len(MORE) == len({tuple(words(row["inputs"]["request"])) for row in MORE})
    for row in MORE:
        output = row["output"]
        assert ["verdict", "edge_case", "why"] == list(output)
        assert output["verdict"] in VERDICTS and (output["verdict"] == "ask") == output["edge_case"]
        assert row["inputs"]["request"]["order"] not in ORDERS


def test_steering_mails() -> None:
    """Mails that try to instruct the agent are in both parts, and a person gets them."""
    steering = [label for label in LABELS.values() if label["why"].startswith("Tries to instruct")]
    assert {"example", "unseen"} == {label["part"] for label in steering}
    assert {("ask", "reject")} == {(label["verdict"], label["reviewer"]) for label in steering}
