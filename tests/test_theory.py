"""theory.md: GitHub shows its formulas as written, its anchors and sources are cited, one thing has one word."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options

ROOT = Path(__file__).resolve().parents[1]
THEORY = (ROOT / "theory.md").read_text("utf-8")
FORMULA = re.compile(
    r"(?<![\\$])(?:\$\$(?P<display>.+?)\$\$|\$(?P<inline>(?:\\.|[^$\\\n])+?)\$)", re.S
)
NOT_ON_GITHUB = r"\\(?:operatorname|mbox|[hv]?phantom|DeclareMathOperator|(?:re)?newcommand|def|require|href|style|tag)\b"


ONE_TERM = {  # what is not written -> what is: one Persian word for one thing, and none that reads as translated
    "دوتایی": "دودویی",
    "تقریب پسین": "پسین تقریبی",
    "(خطای|هزینهٔ|بخش) بازسازی": "جملهٔ بازسازی",
    "تابع (خطا|زیان|هدف)": "تابع هزینه",
    "درست‌نمایی لگاریتمی|لگاریتم احتمال داده": "لگاریتم درست‌نمایی",
    "بیت (در|به ازای) (هر )?بُ?عد|بیت بر (بعد|پیکسل|مؤلفه)": "بیت بر بُعد",
    "متغیر (پنهان|مخفی)": "متغیر نهان",
    "رمزگ|انکودر|دیکودر": "کدگذار، کدگشا",
    r"(میانگین|فضای) کد\b|\bکد (خود|نهان|دو تصویر)": "متغیر نهان",
    r"زیر \$?[qp]\b|زیر توزیع": "نسبت به q",
    r"تصادف\b": "نمونه‌گیری",
    r"نات\S* .{0,20}می‌پرداز": "",
    "جوهر": "پیکسل روشن",
    r"\bمانا\b": "نقطهٔ بحرانی",
    "سنجیدنی": "مقایسه‌پذیر",
    "میله": "خط خطا",
    "سرعت": "نرخ",
    "تبدیلی? خطی|معادله‌ای خطی": "آفین",
    "از اولی": "",
}


class Text(HTMLParser):
    """Collects a page's text, with a mark at every tag, so that a tag inside a formula is seen."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.text = ""

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        self.text += "\0"

    def handle_endtag(self, tag):
        self.text += "\0"


def without_code(source):
    """Returns Markdown of the same length with code blanked: a `$` in it is no formula."""
    return re.sub(
        r"^```.*?^```$|`[^`\n]+`",
        lambda m: re.sub(r"[^\n]", " ", m[0]),
        source,
        flags=re.S | re.M,
    )


def problems(source):
    """Returns what GitHub would do to the formulas of a Markdown text: a list of (line, problem, formula).

    GitHub parses Markdown before math, so a formula survives only if the parser leaves its every character alone.
    """
    page = Text()
    page.feed(
        cmarkgfm.github_flavored_markdown_to_html(source, Options.CMARK_OPT_UNSAFE)
    )
    source, place, found = without_code(source), 0, []
    for match in FORMULA.finditer(source):
        formula, before, after = (
            match[0],
            source[: match.start()],
            source[match.end() :],
        )
        # what the page must show: "\\\\" at the end of a line becomes "\\", which GitHub repairs; indents go
        shown = re.sub(
            r"^[ \t]+",
            "",
            re.sub(r"\\\\[ \t]*$", r"\\", formula, flags=re.M),
            flags=re.M,
        )
        at = page.text.find(shown, place)
        place = max(place, at + len(shown))
        checks = {
            "changed by the Markdown parser": at < 0,
            "a macro that GitHub does not allow": re.search(NOT_ON_GITHUB, formula),
        }
        if match["inline"]:
            checks["no blank before $"] = before and before[-1] not in " \n\t(|"
            checks["a letter or digit after $"] = re.match(r"\w", after)
            checks["a blank inside $"] = match["inline"] != match["inline"].strip()
        else:
            alone = re.search(r"(?:^|\n\n)$", before) and re.match(r"\n\n|\n?$", after)
            checks["$$ without an empty line around it"] = not alone
        found += [
            (before.count("\n") + 1, problem, formula)
            for problem, bad in checks.items()
            if bad
        ]
    if source.count("$") != sum(m[0].count("$") for m in FORMULA.finditer(source)):
        found.append((0, "a $ without its pair", ""))
    return found


def anchors(text):
    """Returns the equation anchors a text names: a list."""
    return re.findall(r"\beq-[a-z0-9]+(?:-[a-z0-9]+)*", text)


def cells(notebook):
    """Returns the source of all cells of a notebook, as one text."""
    return "\n".join(
        "".join(cell["source"])
        for cell in json.loads((ROOT / notebook).read_text("utf-8"))["cells"]
    )


DEFINED = re.findall(r'<a id="(eq-[^"]+)"></a>\n\n\$\$', THEORY)
CITING = {
    "theory.md": lambda: re.findall(r"\]\(#([^)]+)\)", THEORY),
    "VAE.ipynb": lambda: anchors(cells("VAE.ipynb")),
    "RealNVP.ipynb": lambda: anchors(cells("RealNVP.ipynb")),
    "report/main.typ": lambda: anchors((ROOT / "report/main.typ").read_text("utf-8")),
}


def test_formulas_survive_github():
    assert len(FORMULA.findall(without_code(THEORY))) > 300
    assert problems(THEORY) == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (r"so $a \, b$ is", "changed"),
        (r"so $\{1\}$ is", "changed"),
        (r"so $a_{i}b_{j}$ and $x*y*z$ is", "changed"),
        ("$$\na \\\\ b\n$$", "changed"),
        (r"so $\operatorname{tr} A$ is", "macro"),
        ("so،$a$ is", "no blank before"),
        ("so $a$2 is", "letter or digit after"),
        ("so $ a$ is", "blank inside"),
        ("text\n$$\na\n$$\n", "empty line"),
        ("so $a is", "pair"),
    ],
)
def test_the_check_finds(source, problem):
    assert any(problem in found for _, found, _ in problems(source)), problems(source)


def test_the_check_lets_pass():
    assert (
        problems(
            "a `$` and $x \\in \\lbrace 0, 1 \\rbrace^d$ .\n\n$$\na _{i} \\\\\nb\n$$\n"
        )
        == []
    )


def test_anchors_are_unique_and_before_a_formula():
    assert len(DEFINED) == len(set(DEFINED)) == THEORY.count("<a id=") > 20


@pytest.mark.parametrize("citing", CITING)
def test_every_cited_anchor_exists(citing):
    cited = CITING[citing]()
    assert len(cited) > 4 and set(cited) <= set(DEFINED), set(cited) - set(DEFINED)


def test_every_source_is_listed_once_and_cited():
    text, _, listed = THEORY.partition("## مراجع")
    entries = re.findall(r"^- (.+?) \((\d{4})\)\.", listed, flags=re.M)
    names = []
    for authors, year in entries:
        family = re.findall(r"(?:^|, (?:& )?)([^\W\d_-][^,]+), [A-ZÅ]", authors)
        names.append(
            (
                family[0]
                + (
                    " et al."
                    if len(family) > 2
                    else "".join(f" & {f}" for f in family[1:])
                ),
                year,
            )
        )
    cited = re.findall(r"([^\W\d_]+\s(?:et\sal\.|&\s[^\W\d_]+)),\s(\d{4})", text)
    assert sorted(names) == sorted(
        {(" ".join(who.split()), year) for who, year in cited}
    )


def test_the_report_has_every_source_of_theory():
    bib = (
        (ROOT / "report/refs.bib")
        .read_text("utf-8")
        .replace("{", "")
        .replace("}", "")
        .lower()
    )
    titles = re.findall(
        r"^- .+? \(\d{4}\)\. (.+?)\. \*", THEORY.partition("## مراجع")[2], flags=re.M
    )
    assert len(titles) > 15
    assert [title for title in titles if f"title={title.lower()}" not in bib] == []


def other_terms(text):
    """Returns the terms of ONE_TERM that a Persian text uses beside the one that is agreed on: a list."""
    return [
        (found[0], term)
        for pattern, term in ONE_TERM.items()
        for found in re.finditer(pattern, text)
    ]


def test_one_term_for_one_thing():
    assert other_terms(THEORY) == []


@pytest.mark.parametrize(
    "text",
    """تصویر دوتایی|تقریب پسین|خطای بازسازی|تابع خطا|تابع هدف|درست‌نمایی لگاریتمی|بیت بر بعد|متغیر پنهان|رمزگشا
       میانگین کد|زیر $q$|زیر q|تصادف به ε منتقل می‌شود|نات‌های بیشتری می‌پردازد|جوهر|نقطه‌ای مانا|سنجیدنی|میله‌ها
       سرعت هم‌گرایی|تبدیلی خطی|از اولی کمتر""".replace("\n", "|").split("|"),
)
def test_other_terms_are_found(text):
    assert len(other_terms(text)) == 1


def test_agreed_terms_are_not_found():
    agreed = "زمان، توانا، همان‌اند، کدگذار و کدگشا، عدد تصادفی، زیر آستانه، پسین تقریبی، بیت بر بُعد، نگاشت خطی"
    assert other_terms(agreed) == []


def test_it_is_persian_text_with_persian_letters():
    assert not re.search("[يك٠-٩]", THEORY)  # Arabic letters and digits that look alike
