"""A whole card, for tests that need none of its network."""

from wsikd.models.files.card import GraderCard


def whole_card(**entries):
    """JSON values of a student's card."""
    spec = {"mpp": 4.0, "patch_px": 64, "mean": [0.5] * 3, "std": [0.5] * 3,
            "classes": ["NC", "G4"]}  # fmt: skip
    own = {"licence": "y", "network": {"arch": "vgg_small"}, "input": spec}
    return GraderCard.made("0" * 64, own | entries).record()
