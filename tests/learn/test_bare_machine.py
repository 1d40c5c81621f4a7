"""What a machine with a GPU needs imports where little is installed.

A borrowed GPU has numpy, PyTorch, timm and usually not what reads many formats, serves, or computes
on a CPU. One process imports all modules, since each has the same imports to make.
"""

import json
import subprocess
import sys

ABSENT = (
    "openvino", "onnx", "onnxruntime", "onnxscript", "tiatoolbox", "openslide", "lightning",
    "lightning_fabric", "pytorch_lightning", "dask", "distributed", "openpyxl", "optuna",
    "pycocotools", "transformers", "imblearn", "tensorboard", "sphinx",
)  # fmt: skip
NEEDED = (
    "wsikd.models.device", "wsikd.models.memory", "wsikd.models.shared_norm",
    "wsikd.models.graders.pooled", "wsikd.models.graders.hdkd", "wsikd.models.backbones.open",
    "wsikd.models.backbones.timm", "wsikd.models.encoders.open", "wsikd.models.files.bundle",
    "wsikd.learn.data.augment", "wsikd.learn.data.patches", "wsikd.learn.data.prefetch",
    "wsikd.learn.data.resident", "wsikd.learn.data.ring", "wsikd.learn.data.sources",
    "wsikd.learn.data.views", "wsikd.learn.engine.compiled", "wsikd.learn.engine.distributed",
    "wsikd.learn.engine.finite", "wsikd.learn.engine.one_process", "wsikd.learn.engine.train",
    "wsikd.learn.engine.trainer", "wsikd.learn.methods.at_plus", "wsikd.learn.methods.hdkd",
    "wsikd.learn.methods.supervised", "wsikd.learn.patch.export", "wsikd.learn.patch.teacher_cache",
    "wsikd.learn.patch.train", "wsikd.learn.mil.train", "wsikd.learn.slpd.train",
    "wsikd.learn.ts2g.adapter_train", "wsikd.bags.embed", "wsikd.grade.engines.choose",
    "wsikd.grade.engines.with_torch", "wsikd.grade.engines.with_compile", "wsikd.grade.predict",
    "wsikd.slides.readers.auto", "wsikd.slides.readers.direct_tiff", "wsikd.tiles.store",
    "wsikd.tiles.stream",
)  # fmt: skip
PROGRAM = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
absent, needed = json.loads(sys.argv[1])
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
faults = {}
for name in needed:
    try:
        importlib.import_module(name)
    except Exception as error:
        faults[name] = repr(error)
print(json.dumps(faults))
"""


def test_modules_import_where_little_is_installed():
    given = json.dumps([ABSENT, NEEDED])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}
    assert len(NEEDED) >= 36
