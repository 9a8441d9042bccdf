"""How the commands on stores say what they found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from amqpd.broker.definitions import QueueRecord
from amqpd.command_output import printable
from amqpd.runtime.definitions_check import describe
from amqpd_storage.entries import POSITION_BITS, POSITION_MAX
from amqpd_storage.salvage import KEY_MAX, LostKeys, LostNames


class QueueNames:
    """What to call a queue of which messages give the id."""

    def __init__(self, queues: dict[int, QueueRecord]) -> None:
        self._queues = queues

    def __getitem__(self, queue_id: int) -> str:
        record = self._queues.get(queue_id)
        if record is None:
            return f"queue with id {queue_id}, whose definition is missing"
        return describe(record)


def describe_lost(lost: Iterable[LostKeys | LostNames], names: QueueNames) -> list[str]:
    """Rows that cannot be read, as a person may look for them."""
    lines: dict[str, None] = {}
    for item in _joined(lost):
        if isinstance(item, LostNames):
            lines[_lost_names(item)] = None
            continue
        if item.table == "entry":
            what = _lost_places(item, names)
        elif item.table == "message":
            what = _lost_messages(item)
        elif item.table == "delayed":
            what = f"delayed messages with the numbers {_span(item.first, item.last)}"
        elif item.table == "run":
            what = f"what was acknowledged and comes back, {_lost_places(item, names)}"
        else:
            what = f"what was delivered before, of queues with id {_span(item.first, item.last)}"
        found = f"; {item.found} were found again" if item.found else ""
        lines[f"{what} ({item.reason}{found})"] = None
    return list(lines)


def _joined(lost: Iterable[LostKeys | LostNames]) -> Iterator[LostKeys | LostNames]:
    """Ranges that touch are one: a hundred damaged pages in a row are one piece of news."""
    before: LostKeys | LostNames | None = None
    count = 0
    for item in lost:
        if (
            isinstance(before, LostKeys)
            and isinstance(item, LostKeys)
            and (before.table, before.last + 1) == (item.table, item.first)
        ):
            count += 1
            before = before._replace(last=item.last, found=before.found + item.found)
            continue
        if before is not None:
            yield _with_more(before, count)
        before, count = item, 0
    if before is not None:
        yield _with_more(before, count)


def _with_more(lost: LostKeys | LostNames, count: int) -> LostKeys | LostNames:
    return lost._replace(reason=f"{lost.reason}, and {count} more such") if count else lost


def _lost_names(lost: LostNames) -> str:
    what = "definitions" if lost.table == "definition" else "what the store says of itself"
    after = f", after {' '.join(map(show_name, lost.after))}" if lost.after else ""
    before = f", before {' '.join(map(show_name, lost.before))}" if lost.before else ""
    return f"{what}{after}{before} ({lost.reason})"


def _lost_places(lost: LostKeys, names: QueueNames) -> str:
    first_queue, first = lost.first >> POSITION_BITS, lost.first & POSITION_MAX
    last_queue, last = lost.last >> POSITION_BITS, lost.last & POSITION_MAX
    if first_queue == last_queue:
        if last >= POSITION_MAX:
            return f"{names[first_queue]}: messages at positions {_span(first, last)}"
        count = count_of(last - first + 1 - lost.found, "message")
        return f"{names[first_queue]}: at most {count}, at positions {_span(first, last)}"
    if (first_queue, first) == (1, 0) and lost.last == KEY_MAX:
        return "messages of any queue"
    to = "the last queue" if lost.last == KEY_MAX else f"position {last} of {names[last_queue]}"
    return f"messages from position {first} of {names[first_queue]} to {to}"


def _lost_messages(lost: LostKeys) -> str:
    """What queues refer to: large messages under negative numbers, shared ones under the others."""
    if lost.last < 0:
        return "large messages"
    if lost.first > 0:
        return f"shared messages {_span(lost.first, lost.last)}"
    return "large messages, and shared ones"


def _span(first: int, last: int) -> str:
    if last >= POSITION_MAX:
        return f"from {first} on"
    return str(first) if first == last else f"{first} to {last}"


def found_again(count: int) -> str:
    return (
        f"{count} rows are on pages that no index leads to; messages among them may have been "
        "acknowledged before"
    )


def show_name(name: str) -> str:
    """A name as it is, unless that could be misread."""
    return name if name.isprintable() and name.strip() == name and name else repr(name)


def count_of(count: int, word: str) -> str:
    """So many of something."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def show_bytes(size: int) -> str:
    """A size for people."""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} bytes"


def left_over(count: int, one: str, many: str = "") -> str:
    if count == 1:
        return f"1 {one} belongs to no queue any more"
    return f"{count} {many or one + 's'} belong to no queue any more"


def print_lines(mark: str, lines: Iterable[str]) -> None:
    """Each behind its mark."""
    for line in lines:
        print(f"{mark} {printable(line)}")
