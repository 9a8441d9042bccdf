"""A Celery application as a user would write it; the broker under test carries its tasks.

Results go to files, so that nothing but the broker is needed; chords then poll, by tasks with a
countdown. The queues have names of the run, so that a broker may be used again.
"""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject
from kombu import Exchange, Queue
from kombu.common import Broadcast

RUN = os.environ["CELERY_RUN"]
HOME = Path(os.environ["CELERY_HOME"])

app = Celery("scenario", broker=os.environ["AMQP_URL"], backend=HOME.joinpath("results").as_uri())
app.conf.update(
    task_default_queue=RUN,
    task_queues=[
        Queue(RUN, Exchange(RUN), routing_key=RUN),
        Queue(f"{RUN}.media", Exchange(f"{RUN}.topic", type="topic"), routing_key="media.#"),
        Broadcast(f"{RUN}.all", queue=f"{RUN}.all.{os.getpid()}", auto_delete=True),
    ],
    task_send_sent_event=True,
    task_track_started=True,
    worker_send_task_events=True,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
    result_chord_retry_interval=0.2,
)
if authority := os.environ.get("CELERY_AUTHORITY"):
    app.conf.broker_use_ssl = {"ca_certs": authority, "cert_reqs": ssl.CERT_REQUIRED}


@app.task
def add(x: float, y: float) -> float:
    return x + y


@app.task
def total(numbers: list[float]) -> float:
    return sum(numbers)


@app.task
def echo(value: Any) -> Any:
    return value


@app.task
def fail(text: str) -> None:
    raise ValueError(text)


@app.task
def when() -> float:
    return time.time()


@app.task
def wait_for(mark: str) -> str:
    while not HOME.joinpath(mark).exists():
        time.sleep(0.02)
    return mark


@app.task
def limited() -> float:
    return time.time()


@app.task(bind=True, max_retries=5)
def succeed_at(self: Task, attempt: int) -> int:
    """Fails until it has been tried this often."""
    if self.request.retries < attempt:
        raise self.retry(countdown=0.05)
    return int(self.request.retries)


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def survive(self: Task, mark: str) -> dict[str, Any]:
    """The first run leaves a mark and hangs; the one that finds it tells how it was delivered."""
    path = HOME / mark
    if not path.exists():
        path.touch()
        time.sleep(600)
    return {"redelivered": self.request.delivery_info["redelivered"]}


@app.task(bind=True, acks_late=True)
def requeue_once(self: Task) -> bool:
    """Sends its message back the first time."""
    if not self.request.delivery_info["redelivered"]:
        raise Reject("not yet", requeue=True)
    return True


@app.task(ignore_result=True)
def leave_mark(mark: str) -> None:
    HOME.joinpath(mark).touch()
