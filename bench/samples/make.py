"""Makes notifications.jsonl, the sample that `pushgw demo` submits: `python -m bench.samples.make`.

Seeded, so that the file in the repository is what this program writes (tests/cli/test_sample.py compares). Every line
is valid. No line names a real person or company; hosts are those of RFC 2606, numbers are random.

What is in it and why: Chinese and English as they come in practice; emoji with modifiers and zero width joiners, and
combining marks, so that a careless cut shows; texts beyond every vendor's limit; quotes, backslashes, newlines and
markup, so that careless escaping shows; every optional key; every strategy; TTLs from now-or-never to 40 days;
templates, and braces that are none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "notifications.jsonl"
SEED = 20261121
#: Lines per kind; together more than the 500 that the contract asks for.
LINES_PER_KIND = 44
Line = dict[str, Any]

FAMILIES = [
    "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}\u200d\N{BOY}",
    "\N{WOMAN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}\u200d\N{PERSONAL COMPUTER}",
    "\N{WAVING WHITE FLAG}\ufe0f\u200d\N{RAINBOW}",
    "\N{ADULT}\U0001f3fe\u200d\N{HANDSHAKE}\u200d\N{ADULT}\U0001f3fb",
    "\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-6}",
    "🇨🇳",
    "🇺🇳",
    "\N{HEAVY BLACK HEART}\ufe0f\u200d\N{FIRE}",
    "\N{CAT}\u200d\N{BLACK LARGE SQUARE}",
    "\N{WOMAN}\u200d\N{ROCKET}",
]
EMOJI = list("😀🎉📦🚚☕⚽🏀🔔💳🎁🍜🧧✅⏰🚄🛒📅🌸🥟")
#: Letters with combining marks: the accent belongs to the letter before it, however it is written.
COMBINING = ["Cafe\u0301", "nai\u0308ve", "Z\u0335a\u0337", "हिन्दी", "한국어", "ภาษาไทย"]
GOODS = ["保温杯", "蓝牙耳机", "机械键盘", "羊毛围巾", "儿童绘本", "电饭煲", "登山背包", "台灯"]
THINGS = [
    "a thermos flask",
    "headphones",
    "a keyboard",
    "a wool scarf",
    "a picture book",
    "a rice cooker",
    "a desk lamp",
]
CITIES = ["北京", "上海", "成都", "西安", "哈尔滨", "广州", "昆明"]
TOWNS = ["Springfield", "Riverton", "Lakeside", "Hillview", "Oakdale"]
SENTENCES_ZH = [
    "今天的内容有点长，请耐心看完。",
    "我们整理了本周最受关注的十个话题，附上编辑的点评。",
    "清晨的风从山谷里吹来，带着青草和泥土的味道。",
    "“读书破万卷”，这句话放到今天依然不过时。",
    "如有疑问，请在工作日九点到十八点之间联系客服。",
    "活动最终解释权以页面说明为准。",
]
SENTENCES_EN = [
    "This one is a little long, so take your time. ",
    "We picked ten stories that our readers liked best this week. ",
    'The editor notes: "short is good, but not always". ',
    "Trains run every twelve minutes; the last one leaves at 23:40. ",
    "If anything is unclear, answer this message on a working day. ",
]


def _pick(chance: random.Random, values: list[str]) -> str:
    return chance.choice(values)


def shipping(chance: random.Random, index: int) -> Line:
    """A template with variables: one content, many receivers."""
    order, goods = f"{chance.randrange(10**9, 10**10)}", _pick(chance, GOODS)
    line: Line = {
        "title": "包裹已发出 📦",
        "body": "您购买的{{goods}}已从{{city}}发出，订单号 {{order}}，预计 {{days}} 天内送达。",
        "vars": {"goods": goods, "city": _pick(chance, CITIES), "order": order, "days": str(chance.randrange(1, 6))},
        "data": {"kind": "shipping", "order": "{{order}}", "items": chance.randrange(1, 5), "paid": True},
        "category": "order",
        "click": {"type": "url", "value": "https://shop.example.com/orders/{{order}}"},
    }
    if index % 2:
        line |= {
            "title": "On its way: {{thing}}",
            "body": "Hello! {{thing}} left {{town}} this morning. Order {{order}}.",
            "vars": {"thing": _pick(chance, THINGS), "town": _pick(chance, TOWNS), "order": order},
        }
    return line


def code(chance: random.Random, index: int) -> Line:
    """A one-time code: useless after minutes, now or never for some."""
    number = f"{chance.randrange(10**6):06}"
    zh = {"title": "验证码", "body": f"您的验证码是 {number}，5 分钟内有效。请勿告诉任何人。"}
    en = {"title": "Your code", "body": f"{number} is your code. It is valid for 5 minutes. Do not share it."}
    return (zh if index % 2 else en) | {"ttl_s": 0 if index % 8 == 0 else 300, "category": "code", "sound": "code.caf"}


def chat(chance: random.Random, index: int) -> Line:
    """Chat: emoji in all their forms, badges, strategy 1."""
    words = chance.choice(
        ["晚上一起吃火锅吗？", "我到楼下了", "See you at 7?", "收到，谢谢！", "On my way", "哈哈哈哈哈哈"]
    )
    tail = " ".join([*chance.sample(EMOJI, 2), chance.choice(FAMILIES)])
    return {
        "title": chance.choice(["家人群", "项目组", "Book club", "羽毛球周三"]),
        "body": f"{words} {tail}" + (" " + chance.choice(COMBINING) if index % 5 == 0 else ""),
        "badge": chance.randrange(0, 120),
        "sound": "message.caf",
        "data": {"thread": chance.randrange(10**6), "mention": chance.random() < 0.3},
        "click": {"type": "app", "value": ""},
        "ttl_s": 86_400,
    }


def weather(chance: random.Random, index: int) -> Line:
    """Warnings replace each other by collapse id."""
    city = _pick(chance, CITIES)
    level = chance.choice(["蓝色", "黄色", "橙色", "红色"])
    line: Line = {
        "title": f"{city}发布暴雨{level}预警 🌧️",
        "body": f"预计未来 {chance.randrange(2, 9)} 小时，{city}大部降水量超过 {chance.randrange(30, 99)} 毫米。",
        "collapse_id": f"weather-{CITIES.index(city)}",
        "ttl_s": chance.choice([600, 3600, 10_800]),
        "category": "alert",
    }
    if index % 3 == 0:
        town = _pick(chance, TOWNS)
        line |= {
            "title": f"Storm warning for {town}",
            "body": f"Gusts up to {chance.randrange(60, 120)} km/h until 22:00.",
        }
    return line


def reminder(chance: random.Random, index: int) -> Line:
    """Calendar: strategy 3, own devices only, for some."""
    hour = chance.randrange(8, 20)
    zh = {"title": f"{hour}:30 部门周会 📅", "body": "地点：三楼会议室“星空”\n请提前准备本周进展。"}
    en = {
        "title": f"{hour}:30 Design review",
        "body": "Room 3-12\nBring the latest draft.\n- figures\n- open questions",
    }
    return (zh if index % 2 else en) | {
        "strategy": 3 if index % 4 == 0 else 1,
        "ttl_s": 1800,
        "click": {"type": "intent", "value": f"intent://calendar/{index}#Intent;scheme=demo;end"},
    }


def payment(chance: random.Random, index: int) -> Line:
    """Money: vendor first, then the long link."""
    amount = f"{chance.randrange(1, 900)}.{chance.randrange(100):02}"
    zh = {"title": "支付成功 💳", "body": f"您尾号 {chance.randrange(10_000):04} 的银行卡支出 ¥{amount}。"}
    en = {"title": "Payment received", "body": f"We received €{amount}. Thank you!"}
    return (zh if index % 3 else en) | {
        "strategy": 4,
        "data": {"amount": float(amount), "currency": "CNY" if index % 3 else "EUR", "refund": False},
        "click": {"type": "payload", "value": json.dumps({"page": "bill", "id": index})},
        "badge": 1,
    }


def promotion(chance: random.Random, index: int) -> Line:
    """Marketing: its own class, a plan, a picture, a long TTL, overrides per channel."""
    goods, off = _pick(chance, GOODS), chance.randrange(1, 9)
    zh = {
        "title": f"{goods}限时 {off} 折 🧧",
        "body": f"满 {100 * off} 减 {10 * off}，今晚 24 点截止，<b>先到先得</b>！",
    }
    en = {"title": f"{10 * off}% off & more", "body": f"Only today: {_pick(chance, THINGS)} for less <3"}
    return (zh if index % 2 else en) | {
        "category": "marketing",
        "plan_id": f"autumn-{index % 4}",
        "image": f"https://static.example.com/banners/{index % 7}.jpg",
        "strategy": chance.choice([2, {"default": 1, "apns": 2}, {"default": 3, "fcm": 2}, {"default": 1, "fcm": 4}]),
        "ttl_s": chance.choice([86_400, 3 * 86_400, 40 * 86_400]),
        "click": {"type": "url", "value": f"https://shop.example.com/sale?item={index}&from=push"},
    }


def pickup(chance: random.Random, index: int) -> Line:
    """A short template in both languages, with a variable that holds emoji and quotes."""
    spot = chance.choice(["东门 3 号柜", '小区"快递角" 📦', "地下一层 B-12", "前台 (代收)"])
    return {
        "title": "取件通知",
        "body": "{{spot}}，取件码 {{code}}，请于 {{until}} 前取走。",
        "vars": {"spot": spot, "code": f"{chance.randrange(10**4):04}-{chance.randrange(10**4):04}", "until": "20:00"},
        "ttl_s": 12 * 3600,
    }


def build(chance: random.Random, index: int) -> Line:
    """Machines: backslashes, tabs, quotes, braces that are no variables, JSON in a text."""
    broken = chance.choice(
        [
            'C:\\build\\src\\main.c:42: error: expected ";" before "}" token',
            'assert d["key"] == "\\u4f60\\u597d"\n\tleft:  null\n\tright: \'{"a": [1, 2]}\'',
            "{{ not_a_variable }} and {{neither_is_this}} without vars",
            "rm: cannot remove '/tmp/\\\"odd name\\\"': No such file\r\n",
            "</script><script>alert('x')</script> & &amp; %s %d ${HOME}",
        ]
    )
    return {
        "title": f"Build #{chance.randrange(1000, 9999)} {chance.choice(['failed ❌', 'passed ✅'])}",
        "body": broken,
        "collapse_id": f"build-{index % 6}",
        "data": {"branch": "main", "log": "https://ci.example.com/" + str(index), "seconds": 12.5},
    }


def score(chance: random.Random, index: int) -> Line:
    """Live scores: only the newest counts, seconds matter; nothing but a title for some."""
    home, away = chance.randrange(6), chance.randrange(6)
    return {
        "title": f"⚽ 红队 {home} : {away} 蓝队" if index % 2 else f"⚽ Reds {home} - {away} Blues",
        "body": "" if index % 6 == 0 else f"第 {chance.randrange(1, 91)} 分钟" if index % 2 else "Half-time whistle",
        "collapse_id": f"match-{index % 5}",
        "ttl_s": chance.choice([60, 120, 0]),
        "badge": 0,
    }


def article(chance: random.Random, index: int) -> Line:
    """Over-long: more than 4096 bytes and sometimes more than the long link's 16 KiB; emoji where the cut may fall."""
    sentences, title = (SENTENCES_ZH, "今日长文") if index % 2 else (SENTENCES_EN, "The long read")
    size = chance.choice([4_200, 5_000, 9_000, 20_000])
    text = ""
    while len(text.encode()) < size:
        text += chance.choice(sentences)
        if chance.random() < 0.5:
            text += "".join(chance.choice(FAMILIES) for _ in range(chance.randrange(1, 9)))
        if chance.random() < 0.2:
            text += chance.choice(COMBINING)
    line: Line = {"title": f"{title} {index}", "body": text, "ttl_s": 86_400}
    if index % 11 == 0:
        line |= {"title": text[:3_000], "body": "标题也可以很长。"}
    return line


def security(chance: random.Random, index: int) -> Line:
    """Sign-ins: plain texts, an empty title for some, default strategy spelled out."""
    city = _pick(chance, CITIES)
    zh = {
        "title": "" if index % 5 == 0 else "登录提醒",
        "body": f"您的账号于刚刚在{city}登录。如非本人操作，请立即修改密码。",
    }
    en = {"title": "New sign-in", "body": f"Someone signed in from {_pick(chance, TOWNS)}. Was it you?"}
    return (zh if index % 2 else en) | {"strategy": {"default": 1}, "data": {"risk": chance.randrange(100) / 100}}


def unregistered(chance: random.Random, index: int) -> Line:
    """To a device token that nobody registered: it goes to that vendor as it is."""
    token = f"{chance.getrandbits(256):064x}"
    if index % 2:
        to = {"vendor": "fcm", "token": f"{token[:22]}:APA91b{token[22:]}{token}{token[:10]}"}
    else:
        to = {"vendor": "apns", "token": token}
    return {"to": to, "title": "欢迎 👋", "body": f"感谢安装，第 {index + 1} 位新朋友！"}


#: Kind -> how many lines of it.
KINDS: dict[Callable[[random.Random, int], Line], int] = {
    shipping: LINES_PER_KIND,
    code: LINES_PER_KIND,
    chat: LINES_PER_KIND,
    weather: LINES_PER_KIND,
    reminder: LINES_PER_KIND,
    payment: LINES_PER_KIND,
    promotion: LINES_PER_KIND,
    pickup: LINES_PER_KIND,
    build: LINES_PER_KIND,
    score: LINES_PER_KIND,
    article: LINES_PER_KIND,
    security: LINES_PER_KIND,
    unregistered: 12,
}


def lines() -> Iterator[str]:
    """The file's lines in a mixed order, without line ends."""
    chance = random.Random(SEED)
    made = [kind(chance, index) for kind, n in KINDS.items() for index in range(n)]
    chance.shuffle(made)
    for line in made:
        yield json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def main() -> None:
    FILE.write_text("".join(f"{line}\n" for line in lines()), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
