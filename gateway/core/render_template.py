"""Rendering rows of one variant with variables: what `core/render_columns.py` asks of them."""

from __future__ import annotations

from gateway.columns import Pieces, TextColumn
from gateway.content import Variant, template_parts
from gateway.core.compiled import Compiled
from gateway.core.render_columns import render_columns
from gateway.core.rendered import Group
from gateway.escapes import escape_column


def render_template(group: Group, variant: Variant, template: Compiled) -> None:
    """All rows of the group are rendered or refused."""
    render_columns(group, lambda part: VariableContents(part, variant), template)


class VariableContents:
    """One variant and the batch's variables, each gathered once (`render_columns.Contents`)."""

    def __init__(self, group: Group, variant: Variant) -> None:
        self.variant = variant
        self._burst = group.burst
        self._positions = group.positions
        self._columns: dict[str, TextColumn] = {}
        #: Values of slots that were cut; texts have them whole.
        self._cut: dict[str, TextColumn] = {}

    def texts(self) -> tuple[Pieces, Pieces]:
        return self._text(self.variant.title), self._text(self.variant.body)

    def slot(self, name: str) -> Pieces:
        base, bar, chain = name.partition("|")
        if not self._burst.has_variable(base):
            return (self._burst.constant(name, self.variant, in_json=True),)
        return (escape_column(self._cut.get(base) or self.variable(base), chain if bar else "j"),)

    def header(self, name: str) -> Pieces:
        return (self._burst.constant(name, self.variant, in_json=False),)

    def texts_of(self, index: int) -> tuple[str, str]:
        position = int(self._positions[index])
        burst, variant = self._burst, self.variant
        return burst.text_of_row(variant.title, position), burst.text_of_row(variant.body, position)

    def put(self, name: str, column: TextColumn) -> None:
        self._cut[name] = column

    def variable(self, name: str) -> TextColumn:
        if name not in self._columns:
            self._columns[name] = self._burst.variable(name, self._positions)
        return self._columns[name]

    def _text(self, text: str) -> Pieces:
        """A name that nobody brings a column for stays as the caller wrote it."""
        return tuple(
            [
                part.encode()
                if not index % 2
                else self.variable(f"var:{part}")
                if self._burst.has_variable(f"var:{part}")
                else b"{{" + part.encode() + b"}}"
                for index, part in enumerate(template_parts(text))
                if part or index % 2
            ]
        )
