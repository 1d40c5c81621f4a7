"""All targets by name."""

from tests.fuzz.model_targets import MODELS
from tests.fuzz.slide_targets import REAL, SLIDES
from tests.fuzz.store_targets import STORES
from tests.fuzz.text_targets import TEXTS

TARGETS = {target.name: target for target in (*TEXTS, *MODELS, *STORES, *SLIDES, *REAL)}
