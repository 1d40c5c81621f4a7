"""Cards and weights of trained networks."""

import json

import numpy as np

from tests.fuzz.runner import Target

CARD, WEIGHTS, GUARD = "card.json", "model.safetensors", "guard.safetensors"
ENCODER = {"id": "made", "licence": "none", "sha256": "ab" * 32, "input_px": 8,
           "mean": [0.5] * 3, "std": [0.5] * 3}  # fmt: skip
PARTS = {"names": "1" * 12, "images": "2" * 24}
CURVE = {"threshold": [1.0, 0.5, 0.0], "share": [0.0, 0.4, 1.0], "agreement": [0.7, 0.9, 1.0],
         "truth_kappa": [0.6, 0.8, 0.9], "agreement_low": [0.6, 0.85, 1.0],
         "truth_kappa_low": [0.5, None, 0.8]}  # fmt: skip


def build_student(folder):
    from wsikd.models.files.bundle import InputSpec, save_bundle
    from wsikd.models.graders.pooled import build_grader
    from wsikd.models.guard import Sample, fit_guard
    from wsikd.slides.appearance import STATISTICS

    spec = InputSpec(4.0, 32, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4"))
    grader = build_grader("vgg_small", 3, width=0.25)
    quantiles = {name: [0.1, 0.2, 0.3] for name in STATISTICS}
    fields = Sample(np.random.default_rng(0).normal(size=(20, 83)), [str(n % 5) for n in range(20)])
    save_bundle(
        folder, grader, spec, arch="vgg_small", width=0.25, min_area_mm2=0.5, temperature=1.5,
        appearance={"quantiles": quantiles, "slides": 3, "fields": 40}, benign=["NC"],
        seen=[{"salt": "ab", "train": PARTS, "val": PARTS}], teacher={"sha256": "0" * 64},
        escalation={"teacher_sha256": "0" * 64, "fields": 100, "slides": 3, "groups": 3,
                    "curve": CURVE},
        metrics={"kappa": 0.8}, data=["0" * 16],
        guard=fit_guard(fields, fields),
    )  # fmt: skip
    return [CARD, CARD, WEIGHTS, GUARD]


def use_student(folder):
    import torch

    from wsikd.grade.domain_shift import trained_on
    from wsikd.grade.escalation.rule import rule_of
    from wsikd.models.files.bundle import load_bundle
    from wsikd.models.files.export import calibrated, wsinfer_config

    bundle = load_bundle(folder)
    assert bundle.key
    assert bundle.width > 0
    assert bundle.drop_pools >= 0
    assert np.isfinite([bundle.min_area_mm2, bundle.temperature or 1.0, bundle.spec.field_um]).all()
    json.dumps(wsinfer_config(bundle), allow_nan=False)
    trained_on(bundle)
    teacher = type("Teacher", (), {"sha256": "0" * 64})
    rule_of(bundle, teacher, budget=0.5, agreement=0.95)
    side = bundle.spec.patch_px
    if side <= 256 and bundle.spec.upsample <= 4:
        with torch.inference_mode():
            calibrated(bundle)(torch.zeros(1, 3, side, side, dtype=torch.uint8))


def build_bag_network(folder):
    from wsikd.models.files.bag_bundle import save_bag_network
    from wsikd.models.slide_level.mil import build_mil

    network = build_mil("gated", 6, 2, hidden=8, attention=4)
    save_bag_network(
        folder, network, arch="gated", options={"hidden": 8, "attention": 4}, dim=6,
        classes=("NC", "G3"), encoder=ENCODER, threshold=0.4, temperature=1.2, data=["0" * 16],
    )  # fmt: skip
    return [CARD, CARD, WEIGHTS]


def use_bag_network(folder):
    import torch

    from wsikd.models.files.bag_bundle import load_bag_network

    bundle = load_bag_network(folder)
    assert bundle.arch
    assert bundle.sha256
    assert len(set(bundle.classes)) == len(bundle.classes) >= 2
    assert bundle.threshold is None or 0 <= bundle.threshold <= 1
    with torch.inference_mode():
        bundle.network()(torch.zeros(1, 3, bundle.dim), torch.ones(1, 3, dtype=torch.bool))


def build_region_encoder(folder):
    from wsikd.models.files.region_bundle import save_region_encoder
    from wsikd.models.slide_level.region_vit import RegionShape, RegionStudent

    shape = RegionShape(
        dim=6, table=4, width=8, depth=2, heads=2, hidden=12, bottleneck=6, outputs=20
    )
    save_region_encoder(
        folder, RegionStudent(shape), encoder=ENCODER, mpp=0.5, grid=5, variant="slpd"
    )
    return [CARD, CARD, WEIGHTS]


def use_region_encoder(folder):
    import torch

    from wsikd.models.files.region_bundle import load_region_encoder

    encoder = load_region_encoder(folder)
    assert encoder.sha256
    encoder.check(ENCODER, (6, 5, 5), 0.5, what="regions")
    with torch.inference_mode():
        encoder.bottleneck(torch.zeros(1, encoder.shape.dim, encoder.grid, encoder.grid))


MODELS = (
    Target("student_card", build_student, use_student),
    Target("bag_card", build_bag_network, use_bag_network),
    Target("region_card", build_region_encoder, use_region_encoder),
)
