"""The forecast of a training's length."""

import pytest

from wsikd.core import timing
from wsikd.core.timing import Forecast, long_span


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is pushed."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_it_is_stated_once_from_steps_after_the_slow_ones(clock):
    lines = []
    forecast = Forecast(lines.append, steps=20, more=0.25)
    forecast.begin_epoch(24)
    for took in [50, 9, 9, 9, *[1.2] * 6, 7.0]:  # the first waits for data; one step is a hiccup
        clock[0] += took
        forecast.step()
        assert not lines
    clock[0] += 1.2
    forecast.step()
    assert lines == ["about 12 minutes for 24 epochs, measured on 8 steps"]
    for _ in range(30):
        clock[0] += 5
        forecast.step()
    forecast.end_epoch(100)
    assert len(lines) == 1


def test_an_epoch_of_few_steps_is_measured_whole(clock):
    lines = []
    forecast = Forecast(lines.append, steps=2, more=0.0, at_most=True)
    forecast.begin_epoch(10)
    for _ in range(2):
        forecast.step()
    forecast.end_epoch(3.0)
    forecast.begin_epoch(9)
    forecast.end_epoch(3.0)
    assert lines == ["about 30 seconds for at most 10 epochs, measured on the first epoch"]


def test_the_last_epoch_needs_no_forecast(clock):
    lines = []
    forecast = Forecast(lines.append, steps=2, more=0.0)
    forecast.begin_epoch(1)
    forecast.end_epoch(3.0)
    assert lines == []


def test_long_spans_are_words():
    assert long_span(5399) == "90 minutes"
    assert long_span(9000) == "2.5 hours"
