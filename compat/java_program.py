"""What the suites of Java clients share: jars by Maven, a program compiled by javac."""

from __future__ import annotations

import os
from pathlib import Path

from compat import harness

CLASSPATH_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:build-classpath"
POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>compat</groupId>
  <artifactId>compat</artifactId>
  <version>0</version>
  <dependencies>
    {}
  </dependencies>
</project>
"""
DEPENDENCY = (
    "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
)
BARE = DEPENDENCY.replace(
    "</version>",
    "</version><exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion>"
    "</exclusions>",
)
FETCH_SECONDS = 600
COMPILE_SECONDS = 600


def classpath(work_dir: Path, *coordinates: str, bare: tuple[str, ...] = ()) -> str:
    """Jars of these (`group:artifact:version`) and those they need, by way of a project.

    `bare` ones come without what they need.
    """
    maven = harness.need("mvn")
    scratch = work_dir / "java"
    scratch.mkdir(exist_ok=True)
    found = scratch / "classpath.txt"
    needed = [DEPENDENCY.format(*each.split(":")) for each in coordinates]
    needed += [BARE.format(*each.split(":")) for each in bare]
    pom = POM.format("\n    ".join(needed))
    if not found.exists() or (scratch / "pom.xml").read_text() != pom:
        (scratch / "pom.xml").write_text(pom)
        line = [maven, "--batch-mode", "--quiet", CLASSPATH_GOAL, f"-Dmdep.outputFile={found}"]
        what = f"fetching {' '.join(coordinates)}"
        harness.fetched(line, what, timeout=FETCH_SECONDS, cwd=scratch)
    return found.read_text().strip()


def compiled(work_dir: Path, jars: str, *sources: Path) -> list[str]:
    """The command line that runs programs of these sources; a class name comes after it."""
    java, javac = harness.need("java"), harness.need("javac")
    classes = work_dir / "java" / "classes"
    line: list[str | Path] = [javac, "-encoding", "UTF-8", "-cp", jars, "-d", classes, *sources]
    harness.must(harness.command(line, timeout=COMPILE_SECONDS), "javac")
    return [java, "-Xmx512m", "-Dfile.encoding=UTF-8", "-cp", f"{classes}{os.pathsep}{jars}"]
