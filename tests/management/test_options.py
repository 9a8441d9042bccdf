"""Order, pages and columns of lists."""

from __future__ import annotations

import pytest

from tests.management.api import Api, api


@pytest.fixture(scope="module")
def broker() -> Api:
    """Queues named q000 to q249; q007 has three messages."""
    found = api()
    channel = found.broker.client().channel()
    for number in range(250):
        channel.queue_declare(f"q{number:03}")
    for _ in range(3):
        channel.publish("", "q007", b"x")
    return found


def names(items: list[dict[str, str]]) -> list[str]:
    """Of these objects."""
    return [item["name"] for item in items]


def test_a_list_is_sorted_by_name(broker: Api) -> None:
    assert names(broker.get("/queues")) == [f"q{number:03}" for number in range(250)]


def test_another_order(broker: Api) -> None:
    last = broker.get("/queues?sort=messages")[-1]
    assert (last["name"], last["messages"]) == ("q007", 3)
    assert broker.get("/queues?sort=messages&sort_reverse=true")[0]["name"] == "q007"
    assert names(broker.get("/queues?sort=name&sort_reverse=true"))[0] == "q249"


def test_columns(broker: Api) -> None:
    assert broker.get("/queues/%2F/q007?columns=name,messages") == {"name": "q007", "messages": 3}
    assert broker.get("/queues?columns=name")[1] == {"name": "q001"}
    assert broker.get("/overview?columns=object_totals.queues,node.x") == {
        "object_totals": {"queues": 250}
    }


def test_columns_lead_into_each_object_of_a_list() -> None:
    broker = api()
    channel = broker.broker.client().channel()
    channel.queue_declare("q")
    channel.consume("q", tag="one")
    columns = "name,consumer_details.consumer_tag,consumer_details.queue.name,arguments.x"
    assert broker.get(f"/queues/%2F/q?columns={columns}") == {
        "name": "q",
        "consumer_details": [{"consumer_tag": "one", "queue": {"name": "q"}}],
        "arguments": {},
    }
    assert broker.get("/overview?columns=listeners.port,node") == {
        "listeners": [{"port": 5672}, {"port": 15672}],
        "node": "amqpd@localhost",
    }
    assert broker.get("/definitions/%2F?columns=queues.name") == {"queues": [{"name": "q"}]}


@pytest.mark.parametrize("columns", ["listeners,listeners.port", "listeners.port,listeners"])
def test_a_whole_column_wins_over_a_part_of_it(broker: Api, columns: str) -> None:
    assert broker.get(f"/overview?columns={columns}") == broker.get("/overview?columns=listeners")


def test_pages(broker: Api) -> None:
    page = broker.get("/queues?page=2&columns=name")
    assert names(page.pop("items")) == [f"q{number:03}" for number in range(100, 200)]
    assert page == {
        "filtered_count": 250,
        "item_count": 100,
        "page": 2,
        "page_count": 3,
        "page_size": 100,
        "total_count": 250,
    }
    assert len(broker.get("/queues?page=3&page_size=100")["items"]) == 50


def test_pages_of_what_has_a_name(broker: Api) -> None:
    page = broker.get("/queues?page=1&name=Q00&columns=name")
    assert (page["filtered_count"], page["total_count"]) == (10, 250)
    page = broker.get("/queues?page=1&name=^q.*5$&use_regex=true&columns=name")
    assert page["filtered_count"] == 25


@pytest.mark.parametrize("query", ["page=1&name=(&use_regex=true", "page=x", "page=-1"])
def test_pagination_that_cannot_be_read(broker: Api, query: str) -> None:
    answer = broker.does(400, "GET", f"/queues?{query}")
    assert answer == {"error": "bad_request", "reason": "Pagination parameters are invalid"}


@pytest.mark.parametrize(
    ("query", "error", "reason"),
    [
        (
            "page=0",
            "invalid_pagination_parameters",
            "Invalid pagination parameters: page number 0, page size undefined",
        ),
        (
            "page=1&page_size=501",
            "invalid_pagination_parameters",
            "Invalid pagination parameters: page number 1, page size 501",
        ),
        ("page=9", "page_out_of_range", "Page out of range, page: 9 page size: 100, len: 250"),
    ],
)
def test_pages_that_are_not_there(broker: Api, query: str, error: str, reason: str | None) -> None:
    said = broker.does(400, "GET", f"/queues?{query}")
    assert said["error"] == error
    if reason is not None:
        assert said["reason"] == reason


def test_an_empty_list_has_a_first_page() -> None:
    page = api().get("/queues?page=1")
    assert (page["items"], page["page_count"]) == ([], 1)


def test_a_query_of_absurd_length(broker: Api) -> None:
    query = "&".join("a=1" for _ in range(101))
    assert broker.does(400, "GET", f"/queues?{query}")["reason"] == "too many query fields"
