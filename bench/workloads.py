"""The workloads by name: what `shared`, `template`, `distinct` and `single` mean in every benchmark. Seeded.

    shared     one content for all rows of a submit
    template   one content with three variables, whose values differ per row
    distinct   title and body of every row are its own
    single     one row per submit, each with its own content

Texts have 20 to 200 characters, Chinese, English and emoji; one body in twenty is over-long (about 6,000 bytes), so
that it has to be cut for every vendor; in `template` it is the value of one variable that makes it so. Nothing is
repeated between batches but the word list the texts are made of.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.client.requests import UNSENT, little_endian, texts
from gateway.columns import U8, TextColumn
from gateway.content import Variant
from gateway.wire.rpc.messages import Submit

WORKLOADS = ("shared", "template", "distinct", "single")
_WORDS = (
    "您的订单已发货", "限时优惠", "新消息", "请查收", "快递正在派送中", "账单提醒", "明天有雨", "出门记得带伞",
    "your order", "has shipped", "is waiting", "see you soon", "new message", "from the team", "reminder", "at 18:30",
    "🎉", "👨‍👩‍👧‍👦", "🚀", "🇨🇳", "❤️", "价格下降了", "点击查看详情", "会议即将开始",
    "payment received", "code", "验证码", "请勿告诉他人", "好友申请",
)  # fmt: skip
#: Share of texts that no vendor takes whole.
OVERLONG_SHARE = 0.05
OVERLONG_CHARACTERS = 2_000


def text(source: random.Random, low: int = 20, high: int = 200, *, overlong: float = OVERLONG_SHARE) -> str:
    """Words until the length is reached, cut there; a share of them over-long."""
    wanted = OVERLONG_CHARACTERS if source.random() < overlong else source.randint(low, high)
    parts: list[str] = []
    size = 0
    while size < wanted:
        word = source.choice(_WORDS)
        parts.append(word)
        size += len(word) + 1
    return " ".join(parts)[:wanted]


@dataclass
class Row:
    """What the receiver of one row must see."""

    title: str
    body: str


@dataclass
class Job:
    """One submit: what is sent, and what each row must look like at the end. devices: positions among all devices."""

    submit: Submit
    devices: np.ndarray[tuple[int], np.dtype[np.int64]]
    contents: Sequence[Variant]
    variables: dict[str, TextColumn]

    def expected(self, row: int) -> Row:
        content = self.contents[0]
        title, body = content.title, content.body
        for name, column in self.variables.items():
            value = column.row(row).decode()
            title = title.replace("{{" + name + "}}", value)
            body = body.replace("{{" + name + "}}", value)
        return Row(title, body)


def jobs(workload: str, rows: int, batch_rows: int, device_ids: U8, seed: int) -> Iterator[Job]:
    """Submits of `batch_rows` each to devices drawn at random without replacement, until `rows` are reached."""
    source = random.Random(f"{workload}/{seed}")
    order = np.random.default_rng(seed).permutation(len(device_ids))[:rows]
    for at in range(0, rows, batch_rows):
        devices = order[at : at + batch_rows]
        yield _job(workload, source, devices, device_ids)


def _job(workload: str, source: random.Random, devices: np.ndarray[tuple[int], np.dtype[np.int64]], ids: U8) -> Job:
    n = len(devices)
    variables: dict[str, TextColumn] = {}
    match workload:
        case "shared" | "single":
            content = Variant(title=text(source, 20, 60, overlong=0.0), body=text(source))
        case "template":
            constant = text(source, 20, 120, overlong=0.0)
            content = Variant(title="{{name}} · " + source.choice(_WORDS), body=constant + " {{order}} {{note}}")
            variables = {
                "name": TextColumn.from_texts([source.choice(_WORDS) for _ in range(n)]),
                "order": TextColumn.from_texts([f"#{source.randrange(10**9):09d}" for _ in range(n)]),
                "note": TextColumn.from_texts([text(source, 5, 40) for _ in range(n)]),
            }
        case "distinct":
            content = Variant(title="{{title}}", body="{{body}}")
            variables = {
                "title": TextColumn.from_texts([text(source, 20, 60, overlong=0.0) for _ in range(n)]),
                "body": TextColumn.from_texts([text(source) for _ in range(n)]),
            }
        case _:
            raise ValueError(f"no workload {workload!r}")
    submit = Submit(
        id=UNSENT,
        contents=[content],
        n=n,
        device_ids=little_endian(ids[devices].reshape(-1), "u1"),
        variables={name: texts(column) for name, column in variables.items()} or None,
    )
    return Job(submit, devices, [content], variables)
