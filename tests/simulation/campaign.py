"""Many seeds, in several processes."""

from __future__ import annotations

import itertools
import os
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Final, NamedTuple

from tests.simulation import mutations, world
from tests.simulation.links import mutations as link_mutations
from tests.simulation.links import world as links

Figures = world.Figures | links.Figures

LIVES: Final = 20
"""Lives of a broker per seed."""
PHASES: Final = 2
"""Times of trouble of a network per seed."""

SEEDS_TO_FIND_A_BUG: Final = 60
FAILURES_MAX: Final = 10
"""Enough to look at."""
REPORT_S: Final = 60.0


class Plan(NamedTuple):
    """How long a campaign goes on, and how."""

    first_seed: int
    lives: int
    jobs: int
    cuts: int | None = None
    seconds: float | None = None
    bug: str | None = None
    networked: bool = False
    """Several brokers with links between them; `lives` are phases."""


def make_world(seed: int, bug: str | None, networked: bool) -> world.World | links.World:
    """What a seed is run in."""
    if networked:
        return links.World(seed, None if bug is None else link_mutations.BUGS[bug]())
    return world.World(seed, None if bug is None else mutations.BUGS[bug]())


def run_seed(
    seed: int, lives: int, bug: str | None, networked: bool = False
) -> tuple[int, Figures | str]:
    """Figures, or what went wrong."""
    try:
        return seed, make_world(seed, bug, networked).run(lives)
    except Exception:
        return seed, traceback.format_exc()


def run_new_seeds(seconds: float, *, networked: bool = False) -> None:
    """As a test: new seeds for so long, or the one that SIM_SEED names. AssertionError if one
    fails."""
    until = time.monotonic() + seconds
    lives, option = (PHASES, " --links") if networked else (LIVES, "")
    named = os.environ.get("SIM_SEED")
    for seed in itertools.count(new_seed() if named is None else int(named)):
        _, result = run_seed(seed, lives, None, networked)
        replay = f"replay: python -m tests.simulation{option} --seed {seed} --trace"
        assert not isinstance(result, str), f"{result}\n{replay}"
        if named is not None or time.monotonic() >= until:
            return


def find_planted(bug: str, first_seed: int, *, networked: bool = False) -> str:
    """What the first seed says that notices this bug. AssertionError if none of many does."""
    lives = 1 if networked else LIVES
    for seed in range(first_seed, first_seed + SEEDS_TO_FIND_A_BUG):
        _, result = run_seed(seed, lives, bug, networked)
        if isinstance(result, str):
            return result
    raise AssertionError(f"{bug} was not found in {SEEDS_TO_FIND_A_BUG} seeds from {first_seed}")


def new_seed() -> int:
    """One that has hardly been run before, nor those that follow."""
    return time.time_ns() // 1_000_000 % 10**12


def campaign(plan: Plan) -> int:
    """New seeds until it is enough; the exit code."""
    print(
        f"seeds from {plan.first_seed}, {plan.lives} lives each, {plan.jobs} processes", flush=True
    )
    began = last_report = time.monotonic()
    figures_type = links.Figures if plan.networked else world.Figures
    total: Figures = figures_type._make(0 for _ in figures_type._fields)
    option = " --links" if plan.networked else ""
    count = failures = 0
    seeds = itertools.count(plan.first_seed)
    with ProcessPoolExecutor(plan.jobs, get_context("spawn")) as pool:
        running: set[Future[tuple[int, Figures | str]]] = set()
        enough = False
        while True:
            while not enough and len(running) < plan.jobs * 2:
                what = next(seeds), plan.lives, plan.bug, plan.networked
                running.add(pool.submit(run_seed, *what))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                seed, result = future.result()
                count += 1
                if isinstance(result, str):
                    failures += 1
                    print(f"SEED {seed} FAILED\n{result}")
                    replay = f"python -m tests.simulation{option} --seed {seed} --trace"
                    print(f"replay: {replay}", flush=True)
                else:
                    total = figures_type._make(a + b for a, b in zip(total, result, strict=True))
            elapsed = time.monotonic() - began
            enough = (
                failures >= FAILURES_MAX
                or (plan.seconds is not None and elapsed >= plan.seconds)
                or (plan.cuts is not None and total.power_cuts >= plan.cuts)
            )
            if time.monotonic() - last_report >= REPORT_S:
                last_report = time.monotonic()
                print(summary(count, total, elapsed), flush=True)
    print(summary(count, total, time.monotonic() - began))
    print(f"{failures} seeds failed" if failures else "nothing lost, invented or corrupt")
    return 1 if failures else 0


def summary(seeds: int, total: Figures, elapsed_s: float) -> str:
    """One line."""
    if isinstance(total, links.Figures):
        return total.summary(seeds, elapsed_s)
    minutes = elapsed_s / 60
    return (
        f"{elapsed_s:.0f} s: {seeds} seeds, {total.power_cuts} power cuts, {total.kills} kills,"
        f" {total.disk_errors} disk errors ({total.recoveries} mended in place),"
        f" {total.stops} stops, {total.turns} turns,"
        f" {total.batches} batches ({total.forgotten} lost with durability normal),"
        f" {total.pages} pages,"
        f" {total.delivered} deliveries, {total.confirmed} confirms;"
        f" {total.seconds / 3600 / minutes:.1f} simulated hours a minute,"
        f" {total.power_cuts / minutes:.0f} power cuts a minute"
    )
