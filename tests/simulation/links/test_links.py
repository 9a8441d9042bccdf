"""Networks of simulated brokers, with new seeds each time; and whether they would find anything.

SIM_SECONDS=300 make test TESTS=tests/simulation/links      more seeds
SIM_SEED=17 make test TESTS=tests/simulation/links          that one seed
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Final

import anyio
import pytest

from tests.simulation.campaign import find_planted, run_new_seeds
from tests.simulation.links.mutations import BUGS
from tests.simulation.links.virtual_time import Deadlock, VirtualTimeLoop
from tests.simulation.links.world import World

SECONDS: Final = float(os.environ.get("SIM_SECONDS", "8"))
FIRST_SEEDS: Final = {"AckEarly": 13, "UnbindFirst": 10, "Impatient": 9}
"""Where few seeds find a bug, as with the simulation of one broker."""

# An error of the simulated disk, where SQLite has nobody to tell of it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.timeout(SECONDS + 300)
def test_new_seeds() -> None:
    """Nothing is lost, invented, or sent round."""
    run_new_seeds(SECONDS, networked=True)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(name: str) -> None:
    """Within some seeds, always the same ones."""
    result = find_planted(name, FIRST_SEEDS.get(name, 0), networked=True)
    assert "Violation" in result, result


def digest(seed: int) -> int:
    world = World(seed)
    world.run(1)
    return world.digest


def test_a_seed_is_the_same_network_each_time() -> None:
    """In this process, and in one that hashes strings in another order."""
    here = [digest(seed) for seed in range(3)]
    assert len(set(here)) == 3
    program = "from tests.simulation.links.test_links import digest\n"
    program += "print([digest(seed) for seed in range(3)])"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == str(here)


# -- virtual time


def run_in_virtual_time(scenario: object) -> float:
    """How long it took, of virtual seconds."""

    async def main() -> float:
        began = asyncio.get_running_loop().time()
        await scenario()  # type: ignore[operator]
        return asyncio.get_running_loop().time() - began

    return anyio.run(main, backend_options={"loop_factory": VirtualTimeLoop})


def test_an_hour_passes_at_once() -> None:
    async def sleep() -> None:
        await anyio.sleep(3600)
        with anyio.move_on_after(5):
            await anyio.sleep_forever()

    assert run_in_virtual_time(sleep) == pytest.approx(3605)


def test_waiting_for_nothing_is_told() -> None:
    with pytest.raises(Deadlock):
        run_in_virtual_time(anyio.Event().wait)
