"""A broker under load from several clients, killed with SIGKILL as often as one likes.

python -m tests.runtime.kill_campaign --kills 1000

The data directory of a failure is kept, and named.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Final

from tests.runtime.every_exercise import every_exercise
from tests.runtime.kills import World
from tests.runtime.process import BrokerProcess

LIVES: Final = 40
"""Of one data directory; then a new one."""
EMPTY_AFTER: Final = 3
"""Lives after which the queues are emptied: what is there makes a check long."""
LIFE_S: Final = (0.02, 0.35)
REPORT_S: Final = 60.0


def main() -> int:
    """The command; exit code 1 after a failure."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.runtime.kill_campaign", description=__doc__
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=time.time_ns() // 1_000_000)
    options = parser.parse_args()
    # SystemExit, so that no broker outlives the campaign.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(f"{options.kills} kills, seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    began = last = time.monotonic()
    kills = confirmed = 0
    while kills < options.kills:
        directory = Path(tempfile.mkdtemp(prefix="amqpd-kills-"))
        broker = BrokerProcess(directory)
        try:
            world = World(broker, every_exercise())
            world.begin()
            for life in range(min(LIVES, options.kills - kills)):
                world.live(chance.uniform(*LIFE_S))
                kills += 1
                confirmed += sum(load.client.confirmed for load in world.loads)
                world.check()
                if life % EMPTY_AFTER == EMPTY_AFTER - 1:
                    world.empty()
                if time.monotonic() - last > REPORT_S:
                    last = time.monotonic()
                    print(summary(kills, confirmed, last - began), flush=True)
        except Exception:
            traceback.print_exc()
            print(f"after {kills} kills; the broker's directory: {directory}", flush=True)
            return 1
        finally:
            broker.end()
        shutil.rmtree(directory)
    print(summary(kills, confirmed, time.monotonic() - began))
    print("nothing lost, invented, torn or out of order")
    return 0


def summary(kills: int, confirmed: int, seconds: float) -> str:
    """One line."""
    return f"{seconds:.0f} s: {kills} kills, {confirmed} confirms, {seconds / kills:.2f} s a kill"


if __name__ == "__main__":
    sys.exit(main())
