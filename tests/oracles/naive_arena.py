"""The KV arena as lists: for each row and layer what is kept, and what is appended behind that."""


class NaiveArena:
    """Rows of several layers; a token is a number."""

    def __init__(self, layers: int, max_rows: int) -> None:
        self.layers = layers
        self.free = set(range(max_rows))
        self.kept: dict[int, list[list[float]]] = {}
        self.appended: dict[int, list[list[float]]] = {}
        self.active: list[int] = []

    def join(self) -> int:
        row = min(self.free)
        self.free.remove(row)
        self.kept[row] = [[] for _ in range(self.layers)]
        return row

    def leave(self, row: int) -> None:
        self.free.add(row)
        del self.kept[row]
        self.appended.pop(row, None)
        self.active = [active for active in self.active if active != row]

    def move(self, row: int, target: int) -> None:
        self.kept[target] = self.kept[row]
        self.free.remove(target)
        self.leave(row)

    def begin(self, rows: list[int]) -> None:
        self.active = list(rows)
        self.appended = {row: [[] for _ in range(self.layers)] for row in rows}

    def append(self, row: int, layer: int, tokens: list[float]) -> None:
        self.appended[row][layer] += tokens

    def keep(self, paths: dict[int, list[int]]) -> None:
        for row, path in paths.items():
            for kept, appended in zip(self.kept[row], self.appended[row], strict=True):
                kept += [appended[node] for node in path]
        self.begin(self.active)

    def commit(self, tokens: int) -> None:
        for row in self.active:
            for layer, appended in enumerate(self.appended[row]):
                self.kept[row][layer] += appended[:tokens]
                self.appended[row][layer] = appended[tokens:]

    def clear(self) -> None:
        for row in self.active:
            self.kept[row] = [[] for _ in range(self.layers)]
        self.begin(self.active)

    def held(self, row: int, layer: int) -> list[float]:
        """What a row holds in a layer; of an active row what is appended too."""
        return self.kept[row][layer] + (self.appended[row][layer] if row in self.active else [])

    def length(self) -> int:
        """What the longest active row holds."""
        return max(len(self.held(row, 0)) for row in self.active)
