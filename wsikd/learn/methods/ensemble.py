"""Several frozen teachers, whose probabilities are averaged.

S. You et al., "Learning from multiple teacher networks", KDD 2017, equation 5: the soft target is
the mean of the teachers' probabilities at the temperature of the term, p = 1/K sum_k
softmax(z_k / T). It is handed on as logits z = T log p, so that softmax(z / T) = p.

With ``answering`` only some teachers answer for a patch, such as those that were trained without
its slide (cross-fitting: T. Dao et al., "Knowledge distillation as semiparametric inference", ICLR
2021, algorithm 1). A mean over one teacher is that teacher.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikd.core.errors import ConfigError
from wsikd.models.device import upload

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Self


class Ensemble(nn.Module):
    """The teachers beside the first, which the method holds itself.

    Attributes:
        answering: bool (N, K) on the CPU, which of the K teachers answer for each patch of the
            data; None: all do.
    """

    def __init__(
        self, others: Sequence[nn.Module], temperature: float, answering: Tensor | None = None
    ) -> None:
        """Freeze ``others``; T is that of the term that reads the answers."""
        super().__init__()
        self.others = nn.ModuleList(others).requires_grad_(requires_grad=False).eval()
        self.temperature, self.answering = temperature, answering

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (torch's signature)
        """Nothing: they stay in eval."""
        del mode
        return super().train(False)  # noqa: FBT003

    @torch.no_grad()
    def mean_with(self, first: Tensor, patches: Tensor) -> Tensor:
        """Logits of the mean of all.

        Args:
            first: float (B, C), logits of the first teacher.
            patches: (B, 3, H, W), 0 to 255.
        """
        return mean_answer([first, *(net(patches) for net in self.others)], self.temperature)

    @torch.no_grad()
    def of_those_answering(self, first: nn.Module, patches: Tensor, box: Tensor) -> Tensor:
        """Logits of the mean of those that answer for each patch; each is asked for these alone.

        Args:
            first: the first teacher.
            patches: (B, 3, H, W), 0 to 255.
            box: int64 (B,), of ``Batch.box``.
        """
        assert self.answering is not None
        chosen = self.answering[box.cpu()]
        log = None
        for column, net in enumerate([first, *self.others]):
            rows = chosen[:, column].nonzero().flatten()
            if not len(rows):
                continue
            rows = upload(rows, patches.device)
            own = functional.log_softmax(net(patches[rows]).float() / self.temperature, 1)
            if log is None:
                log = own.new_full((len(patches), own.shape[1]), -torch.inf)
            log[rows] = torch.logaddexp(log[rows], own)
        assert log is not None
        count = upload(chosen.sum(1).to(log.dtype), log.device)
        return self.temperature * (log - count.log()[:, None])

    def identity(self) -> list[str]:
        """What the answers depend on beside the teachers' weights."""
        found = [f"mean at {self.temperature:g}"]
        if self.answering is not None:
            found.append(hashlib.sha256(self.answering.numpy().tobytes()).hexdigest())
        return found


def mean_answer(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """T log of the mean of softmax(z / T).

    Args:
        logits: float (B, C) of each teacher.
        temperature: T.

    Returns:
        float (B, C), in single precision at least.

    >>> one, two = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]])
    >>> torch.softmax(mean_answer([one, two], 1.0), 1)
    tensor([[0.2500, 0.7500]])
    """
    log = [
        functional.log_softmax((z.float() if z.element_size() < 4 else z) / temperature, 1)
        for z in logits
    ]
    return temperature * (torch.stack(log).logsumexp(0) - math.log(len(log)))


def refuse_features(
    terms: Collection[str], wanted: Collection[str], *, unseen: bool, alone: Collection[str] = ()
) -> None:
    """Refuse terms that several teachers cannot serve.

    Args:
        terms: those of the run.
        wanted: those that read labels and answers alone, all that ``unseen`` allows.
        unseen: teachers answer for patches that they have not seen.
        alone: those that go with one teacher only.

    Raises:
        ConfigError: a term is not for them.
    """
    for term in sorted(terms):
        if term in alone:
            raise ConfigError(
                f"weights.{term}", "compares answers of one teacher's head",
                f"set weights.{term} to 0, or give one teacher",
            )  # fmt: skip
        if unseen and term not in wanted:
            raise ConfigError(
                f"weights.{term}",
                "reads the features of one teacher, who has seen other folds of these patches",
                f"set weights.{term} to 0, or teacher_answers=mean",
            )
