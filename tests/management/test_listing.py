"""Long lists: the same whatever steps they are made in, and others have their turns meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpd.management import options
from amqpd.management.call import listed, listed_in_steps
from amqpd.management.listing import HEADS_A_STEP, ROWS_A_STEP, Steps
from tests.management.api import Api, api

QUEUES = 3 * HEADS_A_STEP + 1


def finish(steps: Steps[Any]) -> Any:
    """What comes of them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return msgspec.json.decode(msgspec.json.encode(end.value))


def queues(count: int) -> Api:
    """A broker with so many, their names in no order."""
    found = api()
    channel = found.broker.client().channel()
    for number in range(count):
        channel.queue_declare(f"q{number * 7919 % count:05}")
    return found


def test_others_have_their_turns_while_a_list_is_made() -> None:
    broker = queues(QUEUES)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> int:
        beside = asyncio.create_task(others())
        answer = await broker.ask("GET", "/queues")
        beside.cancel()
        return len(answer.json())

    assert asyncio.run(both()) == QUEUES
    assert turns >= QUEUES // ROWS_A_STEP


def test_a_page_makes_its_own_rows_alone() -> None:
    made: list[int] = []

    def make(number: int) -> dict[str, int]:
        made.append(number)
        return {"name": number, "square": number * number}

    answer = listed_in_steps(range(QUEUES, 0, -1), make, "name", head=lambda n: {"name": n})
    page = finish(options.apply(answer, {"page": "2", "page_size": "10"}))
    assert [row["name"] for row in page["items"]] == list(range(11, 21))
    assert made == list(range(11, 21))

    finish(options.apply(answer, {"page": "1", "sort": "square"}))
    assert len(made) == 10 + QUEUES  # the head does not know it


def test_queues_that_come_and_go_while_a_list_is_made() -> None:
    """It shows those that were there when it was asked for."""
    broker = queues(QUEUES)
    channel = broker.broker.client().channel()

    async def both() -> Any:
        asking = asyncio.create_task(broker.ask("GET", "/queues?columns=name,messages"))
        for number in range(QUEUES):
            await asyncio.sleep(0)
            channel.queue_delete(f"q{number:05}")
            channel.queue_declare(f"new{number}")
        return (await asking).json()

    names = [row["name"] for row in asyncio.run(both())]
    assert names == sorted(names)
    assert len(names) == len(set(names)) >= QUEUES


@pytest.mark.parametrize(
    "path",
    ["connections", "channels", "consumers", "exchanges", "bindings", "queues?sort=messages"],
)
def test_all_that_goes_while_a_list_is_made(path: str) -> None:
    broker = api()
    clients = [broker.broker.client() for _ in range(ROWS_A_STEP + 10)]
    for number, client in enumerate(clients):
        channel = client.channel()
        channel.queue_declare(f"q{number}", exclusive=True)
        channel.exchange_declare(f"x{number}", "fanout", auto_delete=True)
        channel.queue_bind(f"q{number}", f"x{number}", "")
        channel.consume(f"q{number}", f"c{number}")

    async def both() -> Any:
        asking = asyncio.create_task(broker.ask("GET", f"/{path}"))
        while not asking.done():
            await asyncio.sleep(0)
            if clients:
                clients.pop().drop()
        return await asking

    answer = asyncio.run(both())
    assert answer.status_code == 200, answer.text
    assert isinstance(answer.json(), list)


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"name": st.text("abc", max_size=2), "n": st.none() | st.integers(0, 3) | st.just("x")}
        ),
        max_size=2 * HEADS_A_STEP + 3,
    ),
    order=st.sampled_from(["", "name", "n", "n.deep", "missing"]),
    reverse=st.booleans(),
    size=st.integers(1, 500),
    wanted=st.sampled_from(["", "a", "B"]),
)
def test_pages_are_the_list_in_pieces(
    rows: list[dict[str, Any]], order: str, reverse: bool, size: int, wanted: str
) -> None:
    query = {"sort": order, "sort_reverse": str(reverse).lower()}
    plain = listed(rows, "name")
    by_steps = listed_in_steps(rows, dict, "name", head=lambda row: {"name": row["name"]})

    whole = finish(options.apply(plain, query))

    assert finish(options.apply(by_steps, query)) == whole
    assert sorted(map(repr, whole)) == sorted(map(repr, rows))
    matching = [row for row in whole if wanted.lower() in row["name"]]
    pages = max(1, -(-len(matching) // size))
    found = [
        finish(
            options.apply(
                by_steps, query | {"page": str(n), "page_size": str(size), "name": wanted}
            )
        )
        for n in range(1, pages + 1)
    ]
    assert [row for page in found for row in page["items"]] == matching
    assert {(page["filtered_count"], page["total_count"]) for page in found} == {
        (len(matching), len(rows))
    }
