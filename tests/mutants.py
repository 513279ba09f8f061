"""Puts one known mistake at a time into a notebook, and says which test finds it.

    python tests/mutants.py          # all, two at a time: under two minutes
    python tests/mutants.py flip     # those with this word in their name

The mistakes stand in mutants.txt: a name, and below it what changes, each change as
"definition: what stands there => what a student writes" ("\\n" is a new line). The exit
status is 1 where a mistake is found by no test, or no longer fits the notebook.
"""

import contextlib
import multiprocessing
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import nb  # noqa: E402

TESTS = {"VAE.ipynb": "tests/test_vae.py", "RealNVP.ipynb": "tests/test_realnvp.py"}
definitions = nb.load_script("build").definitions


def mistakes():
    """Returns {(notebook, what is wrong): [(definition, old, new), ...]}."""
    found = {}
    text = Path(__file__).with_suffix(".txt").read_text("utf-8")
    for line in filter(None, text.splitlines()):
        if line in TESTS:
            notebook = line
        elif not line.startswith(" "):
            changes = found[notebook, line] = []
        else:
            definition, _, change = line.strip().partition(": ")
            old, _, new = change.replace("\\n", "\n").partition(" =>")
            changes.append((definition, old, new.strip()))
    return found


def put_in(namespace, notebook, definition, old, new):
    """Replaces `old` with `new` in the source of a definition."""
    sources = [dict(definitions(text)) for text in nb.code_cells(notebook)]
    (source,) = [found[definition] for found in sources if definition in found]
    if old not in source:
        raise ValueError(f"{definition} has no {old}")
    right = namespace[definition]
    exec(source.replace(old, new), namespace)
    wrong = namespace[definition]
    for value in list(namespace.values()):
        # functions that a class was given, here by another cell
        if isinstance(value, type) and vars(value).get(definition) is right:
            setattr(value, definition, wrong)
    if isinstance(wrong, type):
        for key in vars(right).keys() - vars(wrong).keys():
            setattr(wrong, key, vars(right)[key])


class FirstFailure:
    """A plugin of pytest: remembers the first test that fails."""

    test = None

    def pytest_runtest_logreport(self, report):
        if report.failed and self.test is None:
            self.test = report.nodeid.partition("::")[2]


def find(job):
    """Returns the first test that fails (None: none does) with these changes."""
    notebook, changes = job
    right_load = nb.load

    def load(name):
        module = right_load(name)
        for change in changes if name == notebook else []:
            put_in(vars(module), notebook, *change)
        return module

    nb.load = load
    first = FirstFailure()
    options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", TESTS[notebook]]
    load(notebook)
    # nobody reads what the tests print
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        pytest.main(options, plugins=[first])
    return first.test


def main(word=""):
    os.chdir(nb.ROOT)
    for notebook in TESTS:
        # imports what the notebooks import: the processes below have it then
        nb.load(notebook)
    asked = {key: made for key, made in mistakes().items() if word in key[1]}
    # as they are, no test may fail
    jobs = {(notebook, ""): [] for notebook in TESTS} | asked
    changes = [(notebook, made) for (notebook, _), made in jobs.items()]
    missed = 0
    # a process for each: a mistake leaves nothing behind
    with multiprocessing.Pool(max(2, os.cpu_count()), maxtasksperchild=1) as pool:
        for (notebook, what), test in zip(jobs, pool.imap(find, changes)):
            if what:
                missed += test is None
                print(f"{notebook:<13}  {what:<52}  {test or 'NO TEST'}", flush=True)
            elif test:
                sys.exit(f"{notebook} as it is fails {test}")
    print(f"{len(asked) - missed} of {len(asked)} mistakes found")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
