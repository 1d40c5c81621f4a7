"""The slide that is opened ahead of its turn."""

from pathlib import Path

import pytest

from wsikd.core.errors import SlideError
from wsikd.grade.runs.prefetch import Ahead, Opened
from wsikd.slides.listing.manifest import SlideEntry


def entry(name):
    return SlideEntry(Path(f"{name}.svs"), name)


class Slide:
    def __init__(self):
        self.closed = False

    def close(self):
        self.closed = True


@pytest.fixture
def opened(monkeypatch):
    """What was opened: {name: Slide}; those named bad cannot be."""
    slides = {}

    def open_entry(one):
        if one.name.startswith("bad"):
            raise SlideError(one.name, "is damaged", "scan it again")
        slides[one.name] = Slide()
        return slides[one.name]

    monkeypatch.setattr("wsikd.grade.runs.prefetch.open_entry", open_entry)
    return slides


def test_the_slide_ahead_is_handed_over_once(opened):
    ahead = Ahead()
    ahead.begin(entry("a"), lambda slide, mask, clock: ("tissue of", slide, mask))
    assert ahead.take(entry("b")) is None
    found = ahead.take(entry("a"))
    assert isinstance(found, Opened)
    assert found.slide is opened["a"]
    assert found.prepared == ("tissue of", opened["a"], None)
    assert set(found.clock.seconds) == {"open"}
    assert ahead.take(entry("a")) is None
    assert not opened["a"].closed


def test_a_fault_rises_at_the_slides_own_turn(opened):
    ahead = Ahead()
    ahead.begin(entry("bad"), None)
    with pytest.raises(SlideError, match="is damaged"):
        ahead.take(entry("bad"))
    assert ahead.take(entry("bad")) is None

    def search(slide, mask, clock):
        raise SlideError("c", "no tissue file", "mend it")

    ahead.begin(entry("c"), search)
    with pytest.raises(SlideError, match="no tissue file"):
        ahead.take(entry("c"))
    assert opened["c"].closed


def test_what_nobody_takes_is_closed(opened):
    ahead = Ahead()
    ahead.begin(entry("a"), None)
    ahead.begin(entry("b"), None)
    assert opened["a"].closed
    assert ahead.take(entry("b")).slide is opened["b"]
