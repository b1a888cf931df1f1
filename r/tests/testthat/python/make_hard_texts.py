"""Write hard-texts.jsonl: texts that break text code, a JSON line `{"text": ...}` each.

Run by hand; the result is kept beside this file, so that everybody tests the same texts. None
holds a NUL, which R cannot, or a lone surrogate, which is not Unicode.
"""

# ruff: noqa: E501

import json
import random
import unicodedata
from pathlib import Path

BASE = [
    "The quick brown fox jumps over the lazy dog.",
    "Ada Lovelace lived in London, and worked with Charles Babbage.",
    "Élodie préfère le café crème à Orléans, où naît la Seine ?",
    "Zürich, Köln und Århus: Größe, Straße, ÆSIR.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "İstanbul'da ılık bir gün, IĞDIR.",
    "Việt Nam: tiếng Việt có nhiều dấu thanh.",
    "Съешь же ещё этих мягких французских булок.",
    "Η Αθήνα είναι πρωτεύουσα· ΣΊΣΥΦΟΣ.",
    "北京是中华人民共和国的首都。",
    "東京スカイツリーは634メートルです。",
    "서울은 대한민국의 수도이다.",
    "القاهرة عاصمة مصر، ١٢٣.",
    "יְרוּשָׁלַיִם עיר עתיקה.",
    "नई दिल्ली भारत की राजधानी है।",
    "กรุงเทพมหานครเป็นเมืองหลวง",
    "தமிழ் மொழி பழமையானது.",
    "ქართული ენა",
    "Հայերեն լեզու",
    "አማርኛ ቋንቋ",
]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "👩🏿‍🚀", "🫠", "☃", "#️⃣"]
MARKS = ["\u0301", "\u0308", "\u0323", "\u20dd", "\u0338", "\u0e49", "\u093c", "\u064b"]
ODD = (
    [chr(c) for c in range(1, 32)]
    + ["\x7f", "\x80", "\x85", "\x9f", "\xa0", "\xad", "\u00b7", "\u0130", "\u0131", "\u1e9e", "\u212a"]
    + ["\u034f", "\u061c", "\u115f", "\u17b4", "\u180e", "\u2000", "\u2003", "\u2009", "\u200b", "\u200c"]
    + ["\u200d", "\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202e", "\u202f", "\u205f", "\u2060"]
    + ["\u2066", "\u2069", "\u3000", "\u3164", "\ufe0e", "\ufe0f", "\ufeff", "\uff21", "\uff9e", "\ufffd"]
    + ["\ufffe", "\uffff", "\U0001d400", "\U0001f1e6", "\U000e0020", "\U000e0101", "\U0010ffff", "\ue000"]
)
LITERAL = [
    "", " ", "  ", "\t", "\n", "\r\n", ".", "a", "é", "e\u0301", "你", "😀", "NA", "NULL", "TRUE", "nan",
    "[CLS]", "[SEP] [PAD] [UNK]", "[MASK]", "a [MASK] b", "<s> </s> <mask>", "##ing ##", "\\", "\\n", '"', "'",
    "{x} {{y}} {.val z}", "%s %d %%", "$1 ${HOME} `ls`", "<script>alert(1)</script>", "a,b;c\td", "U+00E9",
    "<U+00E9>", "\\u00e9", "&eacute;", "ﬁ ﬂ ﬀ Ǆ ĳ", "½ ⅓ ² ₂ ① Ⅳ", "ＦＵＬＬ　ＷＩＤＴＨ", "ﾊﾝｶｸ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "ΑΣ ΑΣΑ",
    "I'm can't won't o'clock 'tis", "$1,234.56 €1.234,56 £5 ¥100", "2024-02-29T23:59:60Z", "192.168.0.1 ::1",
    "a@b.example https://example.org/?q=1&r=%20#x", "C++ C# .NET F# AT&T", "--- *** ___ ~~~ ...", "…—–‐‑",
    "«»‹›„“”‚‘’", "١٢٣ ०१२ 一二三", "Å Å Å", "ẞ ß SS", "DŽ Dž dž", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘",
]  # fmt: skip


def main() -> None:
    picker = random.Random(1815)
    texts = list(LITERAL) + BASE
    texts += [unicodedata.normalize(form, text) for form in ("NFD", "NFKC", "NFKD") for text in BASE]
    texts += [text.upper() for text in BASE] + [text.swapcase() for text in BASE[:8]]
    texts += [f"{mark}in{mark} the {mark} middle{mark}" for mark in EMOJI]
    texts += [f"{first}{second}" for first in EMOJI for second in EMOJI[:3]]
    texts += [f"a{mark}b {mark} e{mark}{mark}" for mark in MARKS] + MARKS
    texts += [f"left{odd}right" for odd in ODD] + [f"{odd}Ada {odd} Paris{odd}" for odd in ODD]
    texts += [odd for odd in ODD if odd.strip()]
    texts += ["x" * 600, "é" * 600, "你" * 600, "😀" * 300, "a " * 2000, "\u0301" * 200, "a" + "\u0323" * 300]
    texts += [" ".join(BASE * 3), "".join(BASE[9:12] * 10), "\u200d".join("👨👩👧👦" * 20)]
    texts += [
        "".join(picker.choices("".join(BASE + EMOJI + MARKS + ODD), k=picker.randint(1, 60)))
        for _ in range(80)
    ]
    texts = [text for text in dict.fromkeys(texts) if "\0" not in text]
    assert len(texts) >= 400
    lines = [json.dumps({"text": text}) for text in texts]
    Path(__file__).with_name("hard-texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(len(texts))


if __name__ == "__main__":
    main()
