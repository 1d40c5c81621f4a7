"""Damage to JSON, YAML, XML and CSV that keeps most of their structure."""

import copy
import csv
import io
import json
import re

import yaml

NUMBERS = (0, -1, 1, 3, 0.5, -0.0, 1e-9, 1e308, -1e308, 2**31, 2**63, 2**80, 10**400, float("nan"),
           float("inf"), -float("inf"))  # fmt: skip
STRINGS = ("", " ", "0", "-1", "NaN", "inf", "1e999", "1,5", "x" * 5000, "../../etc", "/", "..",
           "a\nb\rc", "\x1b[31mred", "\0", "\ud800", "\N{SNOWMAN}\u202e", "None", "true", "%s%n",
           "0.25 um", "9" * 5000, "=1+1")  # fmt: skip
DEPTHS = (3, 30, 300, 30_000)


def nonsense(rng):
    """A JSON value that nobody asked for."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(STRINGS)
    plain = (None, True, False, [], {}, [[]], [None], {"a": 1}, [1, 2, 3], [0.5, "x"], ["", ""])
    return copy.deepcopy(rng.choice(plain))


def change(value, rng):
    """A copy of a JSON value with one to three entries replaced, removed, repeated or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _change_once(value, rng)
    return value


def _change_once(value, rng):
    places = list(_places(value))
    if not places or rng.random() < 0.02:
        return nonsense(rng)
    holder, key = rng.choice(places)
    what = rng.randrange(10)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, list):
        holder.extend([holder[key]] * rng.choice((1, 1, 1000)))
    elif what == 1:
        text = str(key)
        holder[rng.choice((text.upper(), text + " ", "type", ""))] = holder.pop(key)
    elif what == 2:
        other_holder, other = rng.choice(places)
        holder[key] = copy.deepcopy(other_holder[other])
    elif what == 3:
        holder[key] = rng.choice(([holder[key]], {"a": holder[key]}, str(holder[key])))
    else:
        holder[key] = nonsense(rng)
    return value


def _places(value):
    """(holder, key) of every entry, however deep."""
    todo = [value]
    while todo:
        holder = todo.pop()
        entries = (
            list(holder.items()) if isinstance(holder, dict)
            else list(enumerate(holder)) if isinstance(holder, list) else []
        )  # fmt: skip
        for key, inner in entries:
            yield holder, key
            todo.append(inner)


def mutate_json(data, rng):
    """JSON bytes with other values; now and then nested deep, or with a key that comes twice."""
    if rng.random() < 0.05:
        return _nested(data.decode(), rng, ("[", "]", '{"a":', "}")).encode()
    value = change(json.loads(data), rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8)
    if rng.random() < 0.05:
        text = re.sub(r'("\w+": )', rng.choice((r"\1 1, \1", r"\1 [], \1")), text, count=1)
    return text.encode("utf-8", "surrogatepass")


def _nested(text, rng, brackets):
    deep, kind = rng.choice(DEPTHS), rng.choice((0, 2))
    inner = rng.choice((text, "1"))
    outer = brackets[kind] * deep + inner + brackets[kind + 1] * deep
    values = list(re.finditer(r"(?<=: )(\d[\d.]*|\"[^\"]*\"|\[\])", text))
    if not values or rng.random() < 0.5:
        return outer
    chosen = rng.choice(values)
    return text[: chosen.start()] + outer + text[chosen.end() :]


_LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
_YAML = (
    "a: &a [x]\nb: *a\n", "? [1]\n: 2\n", "!!python/object/apply:os.system ['true']", "- 1\n",
    "&a [*a]\n", "a: !!binary 'x'\n", "a: 2020-99-99\n", "a: !!float x\n", "\tb: 1\n", "%YAML 9",
    "a: !!int ''\n", "x: 0x\n", "<<: 1\n", "2026-01-01: 1\n", "~: 1\n", "1: {2: 3}\n", _LAUGHS,
)  # fmt: skip


def mutate_yaml(data, rng):
    if rng.random() < 0.15:
        odd = rng.choice(_YAML)
        return rng.choice((odd, odd + data.decode(), data.decode() + odd)).encode()
    if rng.random() < 0.05:
        return _nested(data.decode(), rng, ("[", "]", "{a: ", "}")).encode()
    value = change(yaml.safe_load(data), rng)
    return yaml.dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


_ENTITY = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
_ODD_XML = ("&b;", "&#0;", "<![CDATA[x]]>", "<a>", "</a>", "<?xml version='9'?>", "<!-- --", "&",
            "&lt;script&gt;", "<a b='1' b='2'/>", "\x00", "\x0b")  # fmt: skip


def mutate_xml(data, rng):
    """XML bytes with other attribute values, texts, tags; elements that are gone or come twice."""
    text = data.decode()
    for _ in range(rng.choice((1, 1, 2, 3))):
        text = rng.choice((_value, _value, _value, _value, _element, _odd, _tag, _deep))(text, rng)
    return text.encode("utf-8", "surrogatepass")


def _value(text, rng):
    found = list(re.finditer(r'(?<==")[^"]*(?=")|(?<=>)[^<>]+(?=<)', text))
    if not found:
        return text
    chosen = rng.choice(found)
    value = rng.choice((str(rng.choice(NUMBERS[:12])), str(rng.choice(NUMBERS[13:])),
                        rng.choice(STRINGS), rng.choice(found)[0]))  # fmt: skip
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text[: chosen.start()] + value + text[chosen.end() :]


def _element(text, rng):
    found = list(re.finditer(r"<(\w+)[^<>]*(/>|>[^<>]*</\1>)| \w+=\"[^\"]*\"", text))
    if not found:
        return text
    chosen = rng.choice(found)
    inner = rng.choice(("", chosen[0] * 2, chosen[0] * 500, rng.choice(found)[0]))
    return text[: chosen.start()] + inner + text[chosen.end() :]


def _odd(text, rng):
    at = rng.choice([m.end() for m in re.finditer(">", text)] or [0])
    text = text[:at] + rng.choice(_ODD_XML) + text[at:]
    return rng.choice(("", "", _ENTITY)) + text


def _tag(text, rng):
    names = sorted(set(re.findall(r"[<\s](\w+)[\s>=/]", text))) or ["x"]
    return re.sub(rf"\b{rng.choice(names)}\b", rng.choice((*names, "Other")), text)


def _deep(text, rng):
    deep = rng.choice(DEPTHS)
    at = rng.choice([m.end() for m in re.finditer(">", text)] or [0])
    return text[:at] + "<a>" * deep + "</a>" * deep + text[at:]


def mutate_csv(data, rng):
    """CSV bytes with other cells, rows or delimiters."""
    rows = list(csv.reader(io.StringIO(data.decode())))
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_row(rows, rng)
    stream = io.StringIO()
    delimiter = rng.choice(",,,,,,;\t|")
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    csv.writer(stream, delimiter=delimiter, quoting=quoting, escapechar="\\").writerows(rows)
    text = stream.getvalue()
    if rng.random() < 0.1:
        text = text.replace(rng.choice((",", "\n", '"')), rng.choice(('"', "\0", "\r", "\n\n")), 2)
    coding = rng.choice(("utf-8",) * 8 + ("utf-8-sig", "utf-16"))
    return text.encode(coding, "surrogatepass")


def _change_row(rows, rng):
    row = rng.choice(rows or [[]])
    what = rng.randrange(9)
    if what == 0 or not row:
        rows.insert(rng.randrange(len(rows) + 1), rng.choice(([], [""], list(row), ["x"] * 40)))
    elif what == 1:
        row.pop(rng.randrange(len(row)))
    elif what == 2:
        row.extend([""] * rng.choice((1, 3, 300)))
    elif what == 3:
        row[rng.randrange(len(row))] = "y" * 200_000  # beyond the limit of Python's csv
    elif what == 4:
        row[rng.randrange(len(row))] = rng.choice(rng.choice(rows) or [""])
    else:
        value = rng.choice((rng.choice(STRINGS), str(rng.choice(NUMBERS[:12]))))
        row[rng.randrange(len(row))] = value
