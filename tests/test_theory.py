"""theory.md as GitHub shows it; the equations and sources that are cited."""

import html
import re

import cmarkgfm
import nb
import pytest
from cmarkgfm.cmark import Options

THEORY = (nb.ROOT / "theory.md").read_text("utf-8")
FORMULA = re.compile(
    r"(?<![\\$])(?:\$\$(?P<display>.+?)\$\$|\$(?P<inline>(?:\\.|[^$\\\n])+?)\$)",
    flags=re.DOTALL,
)
NOT_ON_GITHUB = re.compile(
    r"\\(?:operatorname|mbox|[hv]?phantom|DeclareMathOperator|(?:re)?newcommand|def"
    r"|require|href|style|tag)\b"
)


def without_code(source):
    """Returns Markdown of the same length with code blanked: its `$` is no formula."""
    code = r"(?ms)^```.*?^```$|`[^`\n]+`"
    return re.sub(code, lambda match: re.sub(r"[^\n]", " ", match[0]), source)


def problems(source):
    """Returns what GitHub would do to the formulas of a text: (problem, formula).

    GitHub parses Markdown before it looks for formulas, so one survives only where the
    parser leaves its every character alone.
    """
    options = Options.CMARK_OPT_UNSAFE
    page = cmarkgfm.github_flavored_markdown_to_html(source, options)
    # a mark where a tag stands
    page = html.unescape(re.sub("<[^>]+>", "\0", page))
    source = without_code(source)
    place = 0
    dollars = 0
    found = []
    for match in FORMULA.finditer(source):
        formula = match[0]
        before = source[: match.start()]
        after = source[match.end() :]
        dollars += formula.count("$")

        # "\\\\" at the end of a line becomes "\\", which GitHub repairs; indents go
        shown = re.sub(r"\\\\[ \t]*$", r"\\", formula, flags=re.MULTILINE)
        shown = re.sub(r"^[ \t]+", "", shown, flags=re.MULTILINE)
        at = page.find(shown, place)
        if at < 0:
            found.append(("changed by the Markdown parser", formula))
        else:
            place = at + len(shown)
        if NOT_ON_GITHUB.search(formula):
            found.append(("a macro that GitHub does not allow", formula))

        if match["inline"]:
            if before and before[-1] not in " \n\t(|":
                found.append(("no blank before $", formula))
            if re.match(r"\w", after):
                found.append(("a letter or digit after $", formula))
            if match["inline"] != match["inline"].strip():
                found.append(("a blank inside $", formula))
        else:
            alone = re.search(r"(?:^|\n\n)$", before) and re.match(r"\n\n|\n?$", after)
            if not alone:
                found.append(("$$ without an empty line around it", formula))
    if source.count("$") != dollars:
        found.append(("a $ without its pair", ""))
    return found


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
def test_what_github_breaks_is_found(source, problem):
    assert any(problem in found for found, _ in problems(source)), problems(source)


def test_what_github_shows_passes():
    inline = "a `$` and $x \\in \\lbrace 0, 1 \\rbrace^d$ .\n\n"
    assert problems(inline + "$$\na _{i} \\\\\nb\n$$\n") == []


# anchors and sources


def text_of(name):
    if name.endswith(".ipynb"):
        return "\n".join("".join(cell["source"]) for cell in nb.cells(name))
    return (nb.ROOT / name).read_text("utf-8")


@pytest.mark.parametrize(
    "name", ["theory.md", "VAE.ipynb", "RealNVP.ipynb", "report/main.typ"]
)
def test_every_cited_equation_is_one(name):
    equations = re.findall(r'<a id="(eq-[^"]+)"></a>\n\n\$\$', THEORY)
    assert len(equations) == len(set(equations)) == THEORY.count("<a id=")
    cited = re.findall(r"\beq-[a-z0-9]+(?:-[a-z0-9]+)*", text_of(name))
    assert len(cited) > 4
    assert set(cited) <= set(equations)


def test_every_source_is_listed_once_and_cited():
    """…and the report has it, by the same title."""
    text, _, sources = THEORY.partition("## مراجع")
    cited = re.findall(r"([^\W\d_]+\s(?:et\sal\.|&\s[^\W\d_]+)),\s(\d{4})", text)
    cited = {(" ".join(names.split()), year) for names, year in cited}
    listed = []
    bib = (nb.ROOT / "report/refs.bib").read_text("utf-8").lower()
    bib = bib.replace("{", "").replace("}", "")
    for authors, year, title in re.findall(
        r"(?m)^- (.+?) \((\d{4})\)\. (.+?)\. \*", sources
    ):
        assert f"title={title.lower()}" in bib
        family = re.findall(r"(?:^|, (?:& )?)([^\W\d_-][^,]+), [A-ZÅ]", authors)
        names = f"{family[0]} et al." if len(family) > 2 else " & ".join(family)
        listed.append((names, year))
    assert len(listed) > 10
    assert sorted(listed) == sorted(cited)


@pytest.mark.parametrize("name", ["theory.md", "report/main.typ"])
def test_it_is_persian_with_persian_letters(name):
    """Arabic letters and digits look alike, and no search finds them."""
    assert not re.search("[يك٠-٩]", text_of(name))
