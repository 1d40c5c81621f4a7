"""Mutants of a target, one after another, each read by the victim."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz import binary, raw, texts

FORMATS = {
    ".json": texts.mutate_json, ".geojson": texts.mutate_json, ".zattrs": texts.mutate_json,
    ".zarray": texts.mutate_json, ".zgroup": texts.mutate_json, ".yaml": texts.mutate_yaml,
    ".xml": texts.mutate_xml, ".csv": texts.mutate_csv, ".tsv": texts.mutate_csv,
    ".svs": binary.mutate_tiff, ".tif": binary.mutate_tiff, ".tiff": binary.mutate_tiff,
    ".dcm": binary.mutate_dicom,
}  # fmt: skip
RAW_SHARE = 0.3


@dataclass(frozen=True)
class Target:
    """A kind of file.

    ``build(folder)`` writes sound files and names those to be damaged, relative to the folder;
    ``use(folder)``, a function of a module, reads them as wsikd does. ``mutate`` is in place of the
    operations that the file's suffix stands for.
    """

    name: str
    build: Any
    use: Any
    mutate: Any = None


class Field:
    """The sound files of a target, of which one is damaged at a time."""

    def __init__(self, target, folder, victim):
        self.target, self.folder = target, Path(folder)
        self.folder.mkdir(parents=True)
        fault = victim.read(target.build, self.folder)  # there, since what it imports is used there
        assert victim.value, fault
        self.names = victim.value
        self.sound = {name: (self.folder / name).read_bytes() for name in self.names}

    def mutant(self, index):
        """The file that mutant ``index`` damages, and its bytes; the same in every run."""
        rng = random.Random(f"{self.target.name} {index}")
        name = rng.choice(self.names)
        data = self.sound[name]
        own = self.target.mutate or _own(name)
        if own is None or rng.random() < RAW_SHARE:
            return name, raw.mutate_bytes(data, rng)
        return name, own(data, rng)

    def faults(self, victim, indices):
        """Yield (index, file, what is wrong) of the mutants that are not read or refused well."""
        for index in indices:
            if not victim.alive:
                victim.read(self.target.use, self.folder)  # what is imported does not count
            name, data = self.mutant(index)
            try:
                (self.folder / name).write_bytes(data)
                found = victim.read(self.target.use, self.folder)
            finally:
                (self.folder / name).write_bytes(self.sound[name])
            if found:
                yield index, name, found


def _own(name):
    place = Path(name)
    return FORMATS.get(place.suffix.lower() or place.name)
