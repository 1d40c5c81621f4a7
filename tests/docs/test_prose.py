"""User-facing text uses the standard words: no word of ``WORDS`` is in messages, help or docs.

Each file is read once, as text and by ``ast``; nothing of wsikd is imported.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = {
    r"anew": "again",
    r"tells?|told|telling": "says, reports, shows, is logged",
    r"mend(s|ed|ing)?": "fix, correct",
    r"begun": "started",
    r"held against": "compared with",
    r"(?<!each\s)(?<!none\s)(?<!some\s)(?<!all\s)of which": "whose, where; or two sentences",
    r"from which": "whose, where; or two sentences",
    r"(go|goes|went|gone|going) on": "continue",
    r"shall": "should, must",
    r"heed(s|ed)?": "use, apply",
    r"will not do": "is not valid",
    r"made otherwise": "made with other settings",
    r"is unlike": "differs from",
    r"(takes?|took) no part": "is left out",
    r"stands? (in|at)": "is in",
    r"lies? not": "is not",
    r"as [\w-]+ (has|have) it": "as in, as for",
    r"so manieth": "every N-th",
    r"may be given again": "repeatable",
    r"(is|are|was|were) no(?!\s+(longer|more|better|worse|less|other|coarser|finer))": "is not a",
    r"at work on": "using, writing to",
    r"where(of|in|upon|to)|there(of|in|upon)|hitherto|lest|nought|aught": "plain words",
}
"""Regular expression -> what to write instead. ``there is no X`` is allowed."""
_REFUSED = {
    re.compile(rf"(?<![\w-])(?:{word})(?![\w-])".replace(" ", r"\s+"), re.I): instead
    for word, instead in WORDS.items()
}
_ALLOWED = re.compile(r"(there|here)\s+(is|are|was|were)\s+no\b", re.I)
_COMMENT = re.compile(r"(?:^|\s)# (.*)$", re.M)
_CODE = re.compile(r"```.*?```|``[^`]*``|`[^`]*`|^ +\w+: ", re.S | re.M)
GENERATED = {"_build", "measurements", "jupyter_execute", "decisions", "_static", "reference"}


def sources():
    """Every file whose text a user reads."""
    python = [p for part in ("wsikd", "cli") for p in sorted((ROOT / part).rglob("*.py"))]
    docs = ROOT / "docs"
    pages = [p for p in docs.rglob("*.md") if not GENERATED & set(p.relative_to(docs).parts)]
    templates = [p for p in sorted((ROOT / "wsikd").rglob("*")) if p.suffix in (".j2", ".html")]
    configs = sorted((ROOT / "configs").rglob("*.yaml"))
    pages += [ROOT / n for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*python, *sorted(pages), *templates, *configs]


def texts(path):
    """(line, text) of each piece of prose in a file."""
    source = path.read_text("utf-8")
    if path.name == "CHANGELOG.md":
        source = re.split(r"^## (?!\[?Unreleased)", source, flags=re.M)[0]
    if path.suffix != ".py":
        yield 1, without_code(source)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, without_code(node.value)
    for found in _COMMENT.finditer(source):
        yield source.count("\n", 0, found.start(1)) + 1, found[1]


def without_code(text):
    """A text without names in backticks and of arguments; its lines keep their numbers."""
    return _CODE.sub(lambda found: "\n" * found[0].count("\n"), text)


def faults(path):
    """One line for each refused word: file, line, word, replacement."""
    for line, text in texts(path):
        plain = _ALLOWED.sub("", text)
        for pattern, instead in _REFUSED.items():
            for found in pattern.finditer(plain):
                at = line + plain.count("\n", 0, found.start())
                word = " ".join(found[0].split())
                yield f"{path.relative_to(ROOT)}:{at}: '{word}'; write: {instead}"


def test_plain_words():
    found = [fault for path in sources() for fault in faults(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("copy the bundle anew", True),
        ("recommended, apart, tellurium", False),
        ("there is no tile store here", False),
        ("it is no tile store", True),
        ("is no longer there", False),
    ],
)
def test_words_are_found(tmp_path, monkeypatch, text, refused):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    assert bool(list(faults(page))) == refused
