"""Ways in which a JSON file goes wrong: one change at a time, drawn from a seed."""

import copy
import json
import random

CANARY = "__import__('os').system('touch {0}')"
WRONG = (
    None, True, False, 0, -1, 3, 2**63, 10**200, 0.5, -0.0, 1e308, "", "x", "relu", "../../etc/passwd", "é" * 3000, "NaN", [],
    {}, [[]], [None], {"": 0}, {"op": "exec"}, "${x}", "grafs-zoo/3", "\u0000", "ᵃ", [1] * 500,
)  # fmt: skip


def places(value, path=()):
    """The path of every value inside."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


class Mutator:
    """Mutations of one object; ``canary`` is a path that running any text of a mutation would create."""

    def __init__(self, data, seed, canary):
        self.data, self.draw, self.code = data, random.Random(seed), CANARY.format(canary)
        self.paths = [path for path in places(data) if path]

    def bytes(self):
        """A file's content that is (almost always) no valid entry any more, and what was done to it."""
        kind = self.draw.choice(["value"] * 5 + ["delete", "rename", "swap", "twice", "number", "code", "cut", "flip", "text"])
        return getattr(self, f"_{kind}")(), kind

    def _changed(self, change):
        data = copy.deepcopy(self.data)
        *outer, key = self.draw.choice(self.paths)
        change(at(data, outer), key)
        return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def _value(self):
        return self._changed(lambda holder, key: holder.__setitem__(key, copy.deepcopy(self.draw.choice(WRONG))))

    def _delete(self):
        return self._changed(lambda holder, key: holder.__delitem__(key))

    def _rename(self):
        def change(holder, key):
            if isinstance(holder, dict):
                holder[key + self.draw.choice(["x", "s", "_", "é"])] = holder.pop(key)
            else:
                holder.insert(key, copy.deepcopy(holder[key]))

        return self._changed(change)

    def _swap(self):
        other = copy.deepcopy(at(self.data, self.draw.choice(self.paths)))
        return self._changed(lambda holder, key: holder.__setitem__(key, other))

    def _twice(self):
        text = json.dumps(self.data)
        where = [index for index, each in enumerate(text) if each == "{" and text[index + 1] == '"']
        index = self.draw.choice(where)
        key = text[index + 1 : text.index(":", index)]
        return f"{text[: index + 1]}{key}: 0, {text[index + 1 :]}".encode()

    def _number(self):
        def change(holder, key):
            value = holder[key]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            holder[key] = value * self.draw.choice([-1, 2, 1e30, 1.0000001]) + 1 if number else str(value) + "1"

        return self._changed(change)

    def _code(self):
        return self._changed(lambda holder, key: holder.__setitem__(key, self.code))

    def _cut(self):
        content = json.dumps(self.data).encode()
        return content[: self.draw.randrange(len(content))]

    def _flip(self):
        content = bytearray(json.dumps(self.data).encode())
        for _ in range(self.draw.randint(1, 4)):
            content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
        return bytes(content)

    def _text(self):
        text = json.dumps(self.data)
        for old in (": 0", ": 3", "true", "null", '": "'):
            if old in text and self.draw.random() < 0.5:
                return text.replace(old, self.draw.choice([": NaN", ": 1e999", ": [[[[", ': "\\ud800", "', ": 00"]), 1).encode()
        return ("[" * self.draw.randint(1, 100_000)).encode()
