"""A campaign of the simulator, or one seed told step by step.

python -m tests.simulation --cuts 1000000 --jobs 8     until so many power cuts
python -m tests.simulation --seconds 30                for so long
python -m tests.simulation --seed 17 --trace           one seed, with what happened
python -m tests.simulation --seed 17 --bug NoSync      with a planted bug
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback

from tests.simulation.campaign import LIVES, Plan, campaign
from tests.simulation.mutations import BUGS
from tests.simulation.world import World


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--cuts", type=int, help="stop after so many power cuts")
    parser.add_argument("--seconds", type=float, help="stop after so many seconds")
    parser.add_argument("--seed", type=int, help="this seed alone, or the first one of a campaign")
    parser.add_argument("--lives", type=int, default=LIVES, help="lives of the broker per seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bug", choices=sorted(BUGS), help="plant this one")
    parser.add_argument("--trace", action="store_true", help="tell what happened (one seed)")
    options = parser.parse_args()
    if options.seed is not None and options.cuts is None and options.seconds is None:
        return replay(options.seed, options.lives, options.bug, options.trace)
    first = time.time_ns() // 1_000_000 % 10**12 if options.seed is None else options.seed
    if options.cuts is None and options.seconds is None:
        options.seconds = 30.0
    plan = Plan(first, options.lives, options.jobs, options.cuts, options.seconds, options.bug)
    return campaign(plan)


def replay(seed: int, lives: int, bug: str | None, trace: bool) -> int:
    """One seed, in this process."""
    world = World(seed, None if bug is None else BUGS[bug]())
    if trace:
        world.trace = []
    try:
        figures = world.run(lives)
    except Exception:
        print("\n".join(world.trace or ()))
        traceback.print_exc()
        return 1
    print("\n".join(world.trace or ()))
    print(f"seed {seed}: nothing found; digest {world.digest:08x}; {figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
