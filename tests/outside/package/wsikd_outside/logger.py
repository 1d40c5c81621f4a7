"""A log of one line an epoch in the run's folder."""

from wsikd.learn.engine.loggers import flat


class LinesLogger:
    """Keeps ``lines.txt``; see ``wsikd.learn.engine.loggers.Logger``."""

    def __init__(self, run, *, epoch=0):
        """Continue a run after ``epoch``: later lines are of a killed run and void."""
        self.path = run / "lines.txt"
        before = self.path.read_text().splitlines() if self.path.exists() else []
        self.lines = before[:epoch]

    def write(self, row):
        """Take an epoch: its number, its losses, and its figures on validation."""
        figures = flat(row)
        self.lines.append(f"epoch {figures['epoch']}: loss {figures['loss']:.6f}")
        self.path.write_text("\n".join(self.lines) + "\n")

    def close(self):
        """The training is over."""
