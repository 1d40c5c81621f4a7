"""Slides of a run that are ended beside the next one."""

import threading
from types import SimpleNamespace

from wsikd.core.errors import SlideError
from wsikd.core.output.batch import Batch


class Lines(Batch):
    def say(self, line):
        self.lines = [*getattr(self, "lines", []), line.split(" (")[0]]


def test_a_slide_is_ended_beside_the_next_one_and_reported_in_order():
    begun = {name: threading.Event() for name in "abcde"}
    batch, here, ended = Lines(None), threading.get_ident(), []

    def work(entry):
        begun[entry.name].set()
        if entry.name == "b":
            raise SlideError("b", "is bad", "leave it out")

        def finish():
            assert threading.get_ident() != here
            if entry.name == "a":
                assert begun["b"].wait(10)  # in progress already
            ended.append(entry.name)
            if entry.name == "c":
                raise SlideError("c", "cannot be written", "make room")
            if entry.name == "d":
                raise RuntimeError("what nobody expects")
            return f"line of {entry.name}"

        return finish

    batch.run_beside([SimpleNamespace(name=name) for name in "abcde"], work)
    assert ended == ["a", "c", "d", "e"]
    assert batch.lines == ["a: line of a", "e: line of e"]
    assert sorted(name for name, _ in batch.failures) == ["b", "c", "d"]
