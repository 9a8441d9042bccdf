"""A campaign of the simulator, or one seed told step by step.

python -m tests.simulation --cuts 1000000 --jobs 8     until so many power cuts
python -m tests.simulation --seconds 30                for so long
python -m tests.simulation --seed 17 --trace           one seed, with what happened
python -m tests.simulation --seed 17 --bug NoSync      with a planted bug
python -m tests.simulation --links --seconds 300       several brokers with links between them
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback

from tests.simulation.campaign import LIVES, PHASES, Plan, campaign, make_world, new_seed
from tests.simulation.links.mutations import BUGS as LINK_BUGS
from tests.simulation.mutations import BUGS


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--cuts", type=int, help="stop after so many power cuts")
    parser.add_argument("--seconds", type=float, help="stop after so many seconds")
    parser.add_argument("--seed", type=int, help="this seed alone, or the first one of a campaign")
    parser.add_argument("--links", action="store_true", help="several brokers, and links")
    parser.add_argument("--lives", type=int, help="lives of the broker (or phases) per seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bug", choices=sorted(BUGS | LINK_BUGS), help="plant this one")
    parser.add_argument("--trace", action="store_true", help="tell what happened (one seed)")
    options = parser.parse_args()
    if options.bug is not None and (options.bug in LINK_BUGS) is not options.links:
        parser.error(f"{options.bug} is a bug of {'one broker' if options.links else 'links'}")
    lives = options.lives or (PHASES if options.links else LIVES)
    if options.seed is not None and options.cuts is None and options.seconds is None:
        return replay(options.seed, lives, options.bug, options.trace, options.links)
    first = new_seed() if options.seed is None else options.seed
    if options.cuts is None and options.seconds is None:
        options.seconds = 30.0
    limits = options.cuts, options.seconds
    return campaign(Plan(first, lives, options.jobs, *limits, options.bug, options.links))


def replay(seed: int, lives: int, bug: str | None, trace: bool, networked: bool) -> int:
    """One seed, in this process."""
    world = make_world(seed, bug, networked)
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
