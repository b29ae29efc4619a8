"""Golden ids of the reference tokenizer on texts of many scripts, and the tokenizer itself, for the Rust tests.

python -m loadonce_models.tokens_golden    (in the environment of models/build-text.sh)
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from .textbundle import ROOT, origin, tokenizer

SENTENCES = (
    "The pump on line 4 is getting loud again; bearing temperature 81.5 °C (limit: 80 °C).",
    "ERROR 2026-03-01T06:12:44Z plc-07 modbus: CRC mismatch on unit 0x1F, retry 3/5, backoff=250ms",
    "Die Förderbänder müssen täglich geprüft werden – außer an Feiertagen. STRASSENBAHNÜBERGANG",
    "L’opérateur a arrêté la machine à 14 h 05 : vibration élevée, pièce n° 12 dégradée, coût ≈ 3 € l’unité.",
    "El sensor de presión falló mañana; ¿quién lo cambió? ¡Atención, señal débil!",
    "A válvula não fechou às três; verificação já concluída.",
    "Čerpadlo se přehřívá, zkontrolujte těsnění. Žluťoučký kůň úpěl ďábelské ódy.",
    "Zażółć gęślą jaźń; łożysko wału głównego wymaga smarowania.",
    "Motorun yatağı ısındı, İSTANBUL ve ISPARTA hatlarını kontrol edin.",
    "Máy bơm số 4 phát ra tiếng ồn lớn, nhiệt độ vượt quá giới hạn.",
    "Насос на линии 4 снова шумит, температура подшипника превышена. Ёлки, ЙОД!",
    "Двигун зупинено через перевантаження; ґрунт вологий, їжак і єнот.",
    "Η αντλία κάνει θόρυβο· θερμοκρασία πάνω από το όριο. ΟΔΥΣΣΕΥΣ ΐ ΰ",
    "המשאבה בקו 4 רועשת שוב, הטמפרטורה מעל הגבול. שָׁלוֹם",
    "المضخة في الخط ٤ صاخبة مرة أخرى، ودرجة الحرارة تجاوزت الحد. مُحَمَّد",
    "पंप लाइन ४ पर फिर से शोर कर रहा है, तापमान सीमा से ऊपर है। क्षत्रिय",
    "লাইন ৪-এর পাম্প আবার শব্দ করছে।",
    "வரி 4 இல் உள்ள பம்ப் மீண்டும் சத்தமாக உள்ளது.",
    "పంపు మళ్ళీ శబ్దం చేస్తోంది, ఉష్ణోగ్రత పరిమితి దాటింది.",
    "ปั๊มในสายที่ 4 มีเสียงดังอีกแล้ว อุณหภูมิเกินขีดจำกัด",
    "ປໍ້າມີສຽງດັງອີກແລ້ວ",
    "ပန့်က ဆူညံနေပြန်ပြီ",
    "4号线的水泵又开始发出噪音，轴承温度超过八十度。请立即检查！",
    "4號線的水泵又開始發出噪音,軸承溫度超過八十度。",
    "第4ラインのポンプがまた騒がしい。軸受の温度が８０℃を超えた。ｶﾀｶﾅ ガギグ",
    "4호선 펌프에서 다시 소음이 납니다. 베어링 온도가 한계를 넘었습니다. 각 각",
    "ტუმბო ისევ ხმაურობს. ᲐᲑᲒ",
    "Պոմպը կրկին աղմկում է։",
    "ፓምፑ እንደገና ድምፅ ያሰማል።",
    "ម៉ាស៊ីនបូមទឹកមានសំឡេងខ្លាំង",
    "Pompa na mstari wa 4 inapiga kelele tena.",
    "Dæla 4 er hávær aftur; Þór og Æsir, ðögun. Ærø, Ålesund, smörgåsbord",
    '{"channels": [[1.5, null, -3e-4]], "rate": 10.0}',
    '<p class="warn">Tank&nbsp;level &lt; 10&nbsp;%</p> https://plant.example/api/v1/tanks?id=7&unit=m%C2%B3#top',
    "def mean(x): return sum(x)/len(x)  # O(n); x[::-1] != x",
    "C:\\logs\\2026\\pump_04.csv || /var/log/syslog.1.gz && rm -rf ./tmp~ $HOME `date` ^C",
    "user@example.com +49 (0)30 1234-5678 #42 @line_4 *** --- ... !!! ??? ;;; «quoted» „so“ “and” ‘so’",
    "[CLS] is a special word, [SEP] too, [MASK][MASK] [PAD] [UNK] but [cls] and [ CLS ] are not",
    "½ ⅓ ² ³ ₂ ① Ⅷ ㎏ ㌔ ﬁ ﬂ ſ ẞ ǅ ŉ № ™ © ® € £ ¥ ₿ ∑ √ ∞ ≠ ≤ ± × ÷ → ⇒ ◆ ■ ♪ ☃",
    "👩‍🔧🏭🔥 👍🏽 🇩🇪🇯🇵 ❤️ 1️⃣ 🧑🏿‍🚀 ok😀ok",
)
EXTRAS = (
    "", " ", "\t\n\r", "\x00", "\ufffd", "\u200b\u200d\ufeff", "\u00ad", "a\u0000b\u0007c\u001b[31md\u007fe",
    "tab\tnew\nline\r\nvt\x0bff\x0cnel\x85nbsp\xa0ogham\u1680em\u2003ls\u2028ps\u2029ideo\u3000end",
    "x" * 99, "x" * 100, "x" * 101, "donaudampfschifffahrts" * 4, "donaudampfschifffahrts" * 5, "é" * 100, "é" * 101,
    "字" * 300, "a " * 400, "." * 400, "-" * 101, "word" + "\u0301" * 150, "I\u0307i\u0307", "ß" * 60, "ﬃ" * 50,
    "e\u0301 é", "A\u030a Å Å", "q\u0323\u0307 q\u0307\u0323", "각 각", "か\u3099 が", "\u1e9b\u0323",
    "\U0001d49c\U0001d4b7", "\U00020000\U0002a6d6\U0002b820", "\ue000\U000f0000", "\ud7ff\uf8ff", "\u0378\u0530",
    "don't can't won't it's I'm o'clock rock'n'roll", "state-of-the-art e-mail co-op 3.14 1,000,000 10^-6 50%",
)  # fmt: skip
# Blocks of letters and signs, to be mixed at random; unassigned places among them are meant.
BLOCKS = (
    (0x20, 0x7F), (0xA0, 0x250), (0x250, 0x370), (0x370, 0x400), (0x400, 0x530), (0x530, 0x600), (0x600, 0x780),
    (0x900, 0xA00), (0xE00, 0xF00), (0x10A0, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2C00), (0x3000, 0x3200),
    (0x4E00, 0x9FFF), (0xA640, 0xA830), (0xAC00, 0xD7A4), (0xF900, 0xFB50), (0xFE00, 0xFFFE), (0x1F300, 0x1FA00),
    (0x20000, 0x20100), (0x0, 0x20), (0x300, 0x370),
)  # fmt: skip


def make(count: int = 1200, seed: int = 50_000) -> list[str]:
    """The texts: whole ones, cut and mixed ones, and random characters."""
    rng = np.random.default_rng(seed)
    out = [*SENTENCES, *EXTRAS]
    pick = lambda: SENTENCES[rng.integers(len(SENTENCES))]  # noqa: E731
    while len(out) < count:
        kind = rng.integers(4)
        if kind == 0:
            a, b = pick(), pick()
            words = [*a.split(" ")[: rng.integers(1, 9)], *b.split(" ")[-rng.integers(1, 9) :]]
            text = " ".join(str(w) for w in rng.permutation(words))
        elif kind == 1:
            text = pick()
            at = sorted(rng.integers(0, len(text) + 1, 2))
            text = text[at[0] : at[1]]
            text = text.upper() if rng.integers(2) else text.title()
        else:
            parts = []
            for _ in range(rng.integers(1, 8)):
                low, high = BLOCKS[rng.integers(len(BLOCKS))]
                parts.append("".join(chr(c) for c in rng.integers(low, high, rng.integers(1, 9))))
            text = (" " if kind == 2 else "").join(parts)
        out.append(text)
    # Surrogates are no characters.
    return ["".join(c for c in text if not 0xD800 <= ord(c) < 0xE000) for text in out]


def main() -> None:
    golden = ROOT / "tests/golden"
    source = origin()
    reference = tokenizer(source)
    lines = make()
    encoded = [reference.encode(line).ids for line in lines]
    raw = [line.encode() for line in lines]
    tensors = {
        "text": np.frombuffer(b"".join(raw), np.uint8),
        "text_ends": np.cumsum([len(r) for r in raw]).astype(np.uint32),
        "ids": np.concatenate(encoded).astype(np.uint16),
        "ids_ends": np.cumsum([len(ids) for ids in encoded]).astype(np.uint32),
    }
    save_file(tensors, golden / "tokens.safetensors")
    (golden / "tokens.safetensors").chmod(0o644)
    text = json.dumps(json.loads((source / "tokenizer.json").read_text()), ensure_ascii=False, separators=(",", ":"))
    (golden / "tokenizer.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    for name in ("tokens.safetensors", "tokenizer.json.gz"):
        print(f"{name}: {Path(golden, name).stat().st_size} bytes")
    print(f"{len(lines)} texts, {len(tensors['ids'])} ids, unknown words {int((tensors['ids'] == 100).sum())}")


if __name__ == "__main__":
    main()
