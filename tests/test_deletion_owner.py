"""Whatever deletes, replaces or renames is in ``wsikd.core.output.files``; read off the source."""

import ast
from pathlib import Path

import pytest

from tests.test_architecture import MODULES

OWNER = "wsikd.core.output.files"
METHODS = {"unlink", "rmdir", "rmtree", "rename", "renames", "removedirs", "truncate", "symlink_to",
           "hardlink_to", "delete_dir", "clear_cache"}  # fmt: skip
OF_MODULES = {
    "os": {"remove", "replace", "unlink", "rename", "renames", "removedirs", "rmdir", "truncate",
           "link", "symlink"},
    "shutil": {"rmtree", "move", "copy", "copy2", "copyfile", "copytree", "copyfileobj"},
}  # fmt: skip
WRITERS = {"open", "write_text", "write_bytes", "touch", "imwrite", "save", "savez", "savetxt",
           "savez_compressed", "savefig", "File", "TiffWriter", "save_as"}  # fmt: skip
# What writes to a place that is not spelt "part": (module, function) and why that is not a danger.
ALLOWED = {
    ("wsikd.grade.bench.choice_report", "plot_trade"): "a place that the caller has aside",
    ("wsikd.grade.bench.report", "plot"): "the same",
    ("wsikd.models.files.export", "_write_onnx"): "the same",
    ("wsikd.models.files.export", "_write_torchscript"): "the same",
    ("wsikd.grade.engines.carry", "carry"): "the same",
    ("wsikd.grade.engines.graph", "write_graph"): "the same",
    ("wsikd.models.files.weights", "write_weights"): "the same",
    ("wsikd.models.files.guard_file", "write_guard"): "the same",
    ("wsikd.learn.slpd.train", "made"): "PrototypeTable.save writes aside itself",
    ("wsikd.core.output.lock", "_take"): "opens a lock that check_file has recognised",
    ("wsikd.core.run", "append_metrics"): "appends",
    ("wsikd.tiles.cluster", "stop_all"): "touches a file of its own in an unfinished store",
    ("wsikd.tiles.shards", "__init__"): "writes a name of this thread's own in an unfinished store",
    ("wsikd.tiles.shards", "write_file"): "the same",
}


def name_of(node):
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def constants(call):
    return [a.value for a in [*call.args, *(k.value for k in call.keywords)]
            if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip


def words(node):
    return {name_of(n) for n in ast.walk(node) if isinstance(n, (ast.Name, ast.Attribute))}


def deletes(call):
    """What a call deletes, replaces or renames with; None where it does not."""
    name = name_of(call.func)
    owner = name_of(call.func.value) if isinstance(call.func, ast.Attribute) else None
    if owner in OF_MODULES:
        return f"{owner}.{name}" if name in OF_MODULES[owner] else None
    if owner is None:
        return name if name in ("rmtree", "unlink", "copytree", "copyfile") else None
    if name in METHODS:
        return f".{name}"
    if name == "replace" and len(call.args) == 1 and not call.keywords:
        return ".replace"  # of a path: that of a text takes two
    return None


def overwrites(call):
    """A call that may write over a file or a Zarr group: one whose place is not called "part"."""
    for keyword in call.keywords:
        true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        if keyword.arg == "overwrite" and true and "zarr" in words(call.func):
            return "overwrite=True"
    name = name_of(call.func)
    if name.startswith("open_") and "zarr" in words(call.func):
        return f"zarr {name}" if {"w", "a", "r+"} & set(constants(call)) - {"r+"} else None
    if name not in WRITERS:
        return None
    if name in ("open", "File", "fdopen") and not any(
        set(text) & set("wax+") and len(text) <= 3 for text in constants(call)
    ):
        return None
    known = {"part", "stream", "parts"}
    return None if words(call) & known else name


def calls(node, inside=""):
    """Every call with the name of the innermost function around it."""
    found, todo = [], [(node, inside)]
    while todo:
        node, inside = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside = node.name
        elif isinstance(node, ast.Call):
            found.append((node, inside))
        todo += ((child, inside) for child in ast.iter_child_nodes(node))
    return found


def faults(module, source):
    found = []
    for call, function in calls(ast.parse(source)):
        if (module, function) in ALLOWED:
            continue
        what = deletes(call) or overwrites(call)
        if what:
            found.append(f"{module}:{call.lineno} {what}")
    return found


@pytest.mark.parametrize("module", sorted(set(MODULES) - {OWNER}))
def test_nobody_else_deletes(module):
    assert faults(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "os.remove(p)", "p.unlink(missing_ok=True)", "shutil.rmtree(p)", "a.replace(b)",
        "a.rename(b)", "os.replace(a, b)", "rmtree(p)", "p.rmdir()", "shutil.move(a, b)",
        "zarr.create_group(p, overwrite=True)", "zarr.open_group(p, mode='w')",
        "p.write_text('x')", "p.open('w')", "open(p, 'wb')", "h5py.File(p, 'w')",
        "cv2.imwrite(str(p), x)", "np.save(p, x)", "shutil.copytree(a, b)",
    ],
)  # fmt: skip
def test_the_check_sees_each_of_them(line):
    assert faults("m", line)


@pytest.mark.parametrize(
    "line",
    ["'a'.replace('b', 'c')", "replace(entry, name='x')", "zarr.open_group(p, mode='r')",
     "part.write_text('x')", "p.open('rb')", "h5py.File(part, 'w')"],
)  # fmt: skip
def test_the_check_sees_nothing_else(line):
    assert not faults("m", line)


def test_every_exception_is_still_needed():
    for module, function in ALLOWED:
        tree = ast.parse(Path(MODULES[module]).read_text())
        assert any(
            deletes(call) or overwrites(call) for call, own in calls(tree) if own == function
        ), (module, function)
