"""The benchmark on a disk that takes longer to flush than the one there is.

    make bench-flush MS=2 ARGS="--only one-in-flight --against rabbitmq"

Virtual disks often flush in a tenth of a millisecond, for they only ask the host to; those of
laptops and servers take one to ten. Here every `fsync` and `fdatasync` takes so many milliseconds
longer, of each broker and of the harness, which measures the flush that goals refer to. It takes a
C compiler: a library is preloaded that pauses before the call. Erlang and Python call both through
the C library; a broker that makes system calls of its own (Go) would not notice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

PAUSE: Final = "FLUSH_PAUSE_US"
SOURCE: Final = f"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static int after_a_pause(const char *name, int fd)
{{
    long us = atol(getenv("{PAUSE}"));
    struct timespec pause = {{us / 1000000, us % 1000000 * 1000}};
    int (*flush)(int) = (int (*)(int)) dlsym(RTLD_NEXT, name);
    nanosleep(&pause, NULL);
    return flush(fd);
}}

int fsync(int fd) {{ return after_a_pause("fsync", fd); }}
int fdatasync(int fd) {{ return after_a_pause("fdatasync", fd); }}
"""


def main() -> int:
    """Run the benchmark with the rest of the arguments; the first one is milliseconds."""
    try:
        pause_us = round(float(sys.argv[1]) * 1000)
    except (IndexError, ValueError):
        print(__doc__, file=sys.stderr)
        return os.EX_USAGE
    with tempfile.TemporaryDirectory(prefix="amqpd-flush-") as directory:
        library = Path(directory) / "slow_flush.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", library, "-ldl"],
            input=SOURCE.encode(),
            check=True,
        )
        Path(directory).chmod(0o755)  # RabbitMQ may run as a user of its own
        return subprocess.run(
            [sys.executable, "-m", "tests.bench", *sys.argv[2:]],
            env={**os.environ, "LD_PRELOAD": str(library), PAUSE: str(pause_us)},
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
