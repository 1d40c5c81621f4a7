"""One of two processes that train on halves of a batch."""

import os
import sys

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pad_sequence

from tests.learn.methods.pair import AT, batch, grader, hybrid
from tests.learn.methods.slpd_parts import held, region_batch, slpd_method
from wsikd.learn.methods.at_plus import AtPlus
from wsikd.learn.methods.base import Batch
from wsikd.learn.methods.hdkd import Hdkd
from wsikd.learn.mil.method import Mil
from wsikd.models.slide_level.mil import build_mil

TERMS = ("ce", "fm", "at_plus", "cos_pooled", "cos_dense", "kd", "dkd", "sr_last", "sr_spatial")
TERMS += ("at", "at_grad")
COUNT = 4
DIM, LENGTHS = 6, (3, 5, 9, 4)


def method(tap):
    """Batch norm frozen; the same weights at every call."""
    made = AtPlus(grader(0), grader(1), terms=TERMS, tap=tap).eval()
    torch.manual_seed(2)
    for parameter in made.helpers.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def hdkd():
    """Batch norm frozen; every term."""
    student, teacher = hybrid("hdkd_student", 0), hybrid("hdkd_teacher", 1, stem_stride=4)
    return Hdkd(student, teacher, ratio=2.0).eval()


def mil():
    """Without dropout; with a loss on instances."""
    torch.manual_seed(0)
    return Mil(build_mil("dsmil", DIM, 3, hidden=8, attention=4).double(), instance=True).eval()


def slpd():
    """With centres that move; one of the first process's two regions has no prototype."""
    made = slpd_method().double().train()
    made.bank.put({k: v.double() if v.is_floating_point() else v for k, v in held().items()})
    return made


def regions(chosen):
    """Regions 0, 4, 2, 1, or those chosen of them."""
    whole = region_batch([0, 4, 2, 1])
    views = {k: v[:, chosen].double() for k, v in whole.views.items()}
    return Batch(views, whole.label[chosen], whole.slide[chosen], whole.box[chosen])


def bags(chosen):
    """Bags of different lengths, filled up to the longest of those chosen."""
    generator = torch.Generator().manual_seed(0)
    every = [torch.randn(n, DIM, generator=generator).double() for n in LENGTHS]
    own = every[chosen]
    filled = pad_sequence(own, batch_first=True)
    mask = torch.arange(filled.shape[1]) < torch.tensor([len(b) for b in own])[:, None]
    index = torch.arange(COUNT)[chosen]
    views = {"bag": filled, "mask": mask, "count": mask.sum(1)}
    return Batch(views, index % 3, ("s",) * len(own), index)


METHODS = {
    "closed form": lambda: method(None),
    "autograd": lambda: method("F3"),
    "hdkd": hdkd,
    "mil": mil,
    "slpd": slpd,
}


def part(rank, of, name=""):
    chosen = slice(rank * COUNT // of, (rank + 1) * COUNT // of)
    if name == "mil":
        return bags(chosen)
    if name == "slpd":
        return regions(chosen)
    whole = batch(COUNT)
    views = {k: v[chosen] for k, v in whole.views.items()}
    return Batch(views, whole.label[chosen], whole.slide[chosen], whole.box[chosen])


def gradients(net, made, given):
    terms = net(given, AT)
    torch.stack(list(terms.values())).sum().backward()
    slopes = {k: p.grad for k, p in made.named_parameters() if p.grad is not None}
    buffers = {k: v for k, v in made.named_buffers() if k.startswith("helpers.centres.")}
    return {k: v.detach() for k, v in terms.items()}, slopes, buffers


def run(folder):
    """Compute in two processes, which share what this one imports."""
    import torch._dynamo  # noqa: F401 - as DistributedDataParallel would in each of them

    children = []
    for rank in (0, 1):
        child = os.fork()
        if not child:
            run_one(rank, folder)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def run_one(rank, folder):
    """Compute in this process, and end it."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    for name, make in METHODS.items():
        made = make()
        found = gradients(DistributedDataParallel(made), made, part(rank, 2, name))
        torch.save(found, folder / f"{name} {rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads sometimes outlive the interpreter, which then aborts
