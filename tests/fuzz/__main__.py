"""``python -m tests.fuzz [-n COUNT] [NAME[:INDEX]...]``: run fuzz targets by hand.

One fault of each kind is printed.
"""

import argparse
import tempfile
from pathlib import Path

from tests.fuzz.runner import Field
from tests.fuzz.targets import TARGETS
from tests.fuzz.victim import Victim


def _kind(found):
    """What two faults have in common: where they arose, else how they begin."""
    way = found.rpartition("(")[2] if found.startswith("RAISES") else found[:40]
    return found.split()[1], " < ".join(way.split(" < ")[:2])


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("-n", type=int, default=500, help="mutants of each target")
    parser.add_argument("--keep", type=Path, help="folder for the bytes of faulty mutants")
    parser.add_argument("names", nargs="*", help=", ".join(TARGETS))
    asked = parser.parse_args()
    victim = Victim()
    for item in asked.names or TARGETS:
        name, _, index = item.partition(":")
        victim.close()
        with tempfile.TemporaryDirectory() as place:
            field = Field(TARGETS[name], Path(place) / "f", victim)
            if sound := victim.read(field.target.use, field.folder):
                print(f"{name}: the sound file: {sound}")
            if victim.refusal:
                print(f"{name}: the sound file is refused: {victim.refusal}")
            count, seen = 0, set()
            for number, file, found in field.faults(
                victim, [int(index)] if index else range(asked.n)
            ):
                count += 1
                if _kind(found) not in seen:
                    seen.add(_kind(found))
                    print(f"{name}:{number} {file}: {found}", flush=True)
                if asked.keep:
                    asked.keep.mkdir(parents=True, exist_ok=True)
                    kept = asked.keep / f"{name}-{number}-{Path(file).name}"
                    kept.write_bytes(field.mutant(number)[1])
            print(f"{name}: {count} faults, {len(seen)} kinds", flush=True)
    victim.close()


if __name__ == "__main__":
    main()
