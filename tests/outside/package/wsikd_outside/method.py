"""A student that learns labels, and how sure its teacher is of each patch."""

from pydantic import Field
from torch.nn import functional

from wsikd.core.config import Settings
from wsikd.learn.losses.maps import cross_entropy
from wsikd.learn.methods.base import Method


class Sureness(Method):
    """Term ``sure``: distance of the highest probability from the teacher's."""

    class Config(Settings):
        """Keys of the YAML beside those of every method that grades patches."""

        softness: float = Field(default=2.0, gt=0)
        """Divides the logits."""

    TERMS = {"ce": 1.0, "sure": 0.5}  # default weights; None: left out unless asked for
    views = ("high", "low")  # the same patches as the teacher and as the student reads them
    needs_teacher = True

    def __init__(self, student, teacher, softness):
        """``teacher`` is frozen."""
        super().__init__()
        self.student, self.softness = student, softness
        self.teacher = teacher.requires_grad_(False)

    @classmethod
    def build(cls, config, student, teacher):
        """Both networks have the same classes; the student is new."""
        return cls(student, teacher, config.softness)

    def train(self, mode=True):
        """The teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch, at):
        """Unweighted scalars by name, the same at every step."""
        own, taught = self.student(batch.views["low"]), self.teacher(batch.views["high"])
        sure, wanted = ((z / self.softness).softmax(1).amax(1) for z in (own, taught))
        terms = {"ce": cross_entropy(own, batch.label)}
        return terms | {"sure": functional.mse_loss(sure, wanted.detach())}
