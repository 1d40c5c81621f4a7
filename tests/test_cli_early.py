"""What cannot be done is refused before anything heavy is imported."""

import json
import subprocess
import sys

import pytest

from tests.learn.test_preflight import place as cohorts  # noqa: F401 - a fixture
from tests.test_cli_roles import write_all_kinds

TRAININGS = ("distill", "tune", "reproduce")
LATE = [
    "distill -c gone.yaml -o out",
    "distill -c first.yaml -o out --set method=at_pluss",
    "distill -c first.yaml -o out --set network.arch=vgg17 --data images",
    "distill -c first.yaml -o out --data gone",
    "distill -c first.yaml -o out --data slides",
    "distill -c run.yaml -o out --data stores",
    "distill -c run.yaml -o out --data stores --teacher gone",
    "distill -c run.yaml -o out --data stores --teacher student",
    "distill -c run.yaml -o out --data stores --teacher teacher --logger gone",
    "infer -i slides -m gone -o out",
    "infer -i gone.svs -m student -o out",
    "infer -i slides -m student -o out --format gone",
    "bench -i slides --teacher gone --student student -o out",
    "bench -i gone.svs --teacher teacher --student student -o out",
    "embed -i gone.svs --encoder embedder -o out",
    "embed -i slides --encoder gone -o out",
    "evaluate gone",
    "evaluate student --data gone",
    "tune -c run.yaml -o out --grid weights.fm=1,2 --data stores --teacher gone",
    "tune -c run.yaml -o out --grid weights.fmm=1,2 --data stores --teacher teacher",
    "reproduce -o out --data gone",
    "reproduce mil -o out --data gone",
    "export-model gone --to onnx -o out",
    "export-model student --to gone -o out",
    "attend gone -i slides --bags bags -o out",
    "attend mil -i gone.svs --bags bags -o out",
]
REFUSED = {
    "one": "data.classes: needs at least two different names, not ['NC']; add data of another",
    "one --set data.classes=[NC,G3]": "data: all labels are of class NC; add slides of another",
    "one_stores": "data: all labels are of class NC; add slides of another class",
    "train": "split: leaves class NC alone for train; add slides",
    "folders": "slide b: is in both",
    "bare --set split.val=0": "split: leaves no patches for val; add slides or change split.val",
}
PROGRAM = """
import json, os, sys
from click.testing import CliRunner
from wsikd.cli.main import main

def tell(folder, lines, heavy):
    os.chdir(folder)
    for line in lines:
        done = CliRunner().invoke(main, line.split())
        loaded = [name for name in heavy if name in sys.modules]
        print(json.dumps([line, done.exit_code, done.stderr, loaded]), flush=True)

light, *others = json.load(sys.stdin)
if not (child := os.fork()):  # what it imports is not there for the others
    tell(*light)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
for group in others:
    tell(*group)
"""


@pytest.fixture(scope="module")
def refused(cohorts, tmp_path_factory):  # noqa: F811
    """Command -> its exit code, its standard error, and what heavy packages are imported by then.

    Commands that train run in a process of their own, since a method's file has its keys.
    """
    kinds = tmp_path_factory.mktemp("kinds")
    write_all_kinds(kinds)
    heavy = ["lightning", "tiatoolbox", "timm"]
    groups = [
        (kinds, [x for x in LATE if not x.startswith(TRAININGS)], [*heavy, "torch"]),
        (cohorts, [by_labels(data) for data in REFUSED], [*heavy, "cv2"]),
        (kinds, [x for x in LATE if x.startswith(TRAININGS)], heavy),
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(groups, default=str),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not (cohorts / "out").exists()
    return {line: told for line, *told in map(json.loads, done.stdout.splitlines())}


def by_labels(data):
    return f"distill -c run.yaml -o out --data {data}"


@pytest.mark.parametrize("line", LATE)
def test_a_path_that_is_wrong(line, refused):
    code, told, heavy = refused[line]
    missing = "gone.svs" in line  # is a slide that failed
    assert (code, len(told.splitlines()), heavy) == (3 if missing else 2, 1, [])


@pytest.mark.parametrize(("data", "fault"), REFUSED.items())
def test_labels_that_teach_nothing(data, fault, refused):
    code, told, heavy = refused[by_labels(data)]
    assert (code, len(told.splitlines()), heavy) == (2, 1, [])
    assert told.startswith("DataError")
    assert fault in told
