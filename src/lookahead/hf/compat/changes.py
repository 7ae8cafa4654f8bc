"""Temporary changes of a model, which are undone whatever interrupts them."""

from collections.abc import Callable, MutableMapping
from typing import Any, Self

_NOTHING: Any = object()


class TemporaryChanges:
    """Changes that are undone together, the last one first.

    A change is made inside the block, after it was noted how to undo it. The block is entered twice, because
    Ctrl-C may cut the first exit short; undoing twice does no harm.

    >>> class Config:
    ...     name = "own"
    >>> config, changes = Config(), TemporaryChanges()
    >>> with changes, changes:
    ...     changes.set_attribute(config, "name", "ours")
    ...     config.name
    'ours'
    >>> config.name
    'own'
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def set_attribute(self, target: object, name: str, value: object) -> None:
        """Give an object's attribute another value."""
        before = getattr(target, name)
        self.undo_by(lambda: setattr(target, name, before))
        setattr(target, name, value)

    def set_item(self, mapping: MutableMapping[str, Any], name: str, value: object) -> None:
        """Give an entry of a mapping, which may not be there, another value."""
        before = mapping.get(name, _NOTHING)
        if before is _NOTHING:
            self.undo_by(lambda: mapping.pop(name, None))
        else:
            self.undo_by(lambda: mapping.__setitem__(name, before))
        mapping[name] = value

    def undo_by(self, undo: Callable[[], object]) -> None:
        """Note how to undo a change before it is made; it may be undone twice, or not have been made."""
        self._undo.append(undo)

    def undo(self) -> None:
        """Undo all changes."""
        with self, self:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        while self._undo:
            self._undo[-1]()
            self._undo.pop()
