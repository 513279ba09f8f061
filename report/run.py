"""Runs both notebooks from top to bottom, in place, and builds the report.

    python report/run.py                    # everything; the minutes are in README.md
    python report/run.py RealNVP.ipynb      # one notebook, then the report
    python report/run.py --quick            # a minute: few images, one epoch
    python report/run.py --quick --out DIR  # the same, into another folder

The terminal shows each cell's number and section, and what the cell prints, its
progress bar too. A notebook is written when all its cells have run: where one stops,
its traceback is shown and the file stays as it was.

A quick run leaves the repository's notebooks, figures and numbers alone: its copies
of them, and its report, are in report/build/quick or DIR.
"""

import argparse
import asyncio
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
SMALL = {  # the parameters of a quick run
    "VAE.ipynb": {
        "N_TRAIN": 500,
        "N_TEST": 200,
        "STEP_EPOCHS": 1,
        "EPOCHS": 1,
        "REPEATS": 2,
        "EPOCHS_2D": 1,
        "EXTRA_EPOCHS": 1,
        "TIGHTNESS_SAMPLES": 500,
        "GRID_POINTS": 151,
    },
    "RealNVP.ipynb": {
        "N_TRAIN": 600,
        "N_TEST": 200,
        "EPOCHS": 1,
        "STEP_EPOCHS": 1,
    },
}
KEPT = (
    "The notebook is as it was. Figures that the cells before drew are new ones, "
    "and the report was not built."
)


class ShownClient(NotebookClient):
    """Executes a notebook and shows on the terminal where it is."""

    def __init__(self, notebook, name, folder):
        super().__init__(
            notebook,
            # the Python that runs this script, whatever the notebook was saved with
            kernel_name="python3",
            # no warning about the connection to this same machine
            extra_arguments=["--log-level=ERROR"],
            # of a progress bar, the last state is kept
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
            on_notebook_start=leave_ctrl_c_alone,
            on_cell_execute=self.show_place,
        )
        self.name = name
        self.place = "its start"

    def show_place(self, cell, cell_index):
        """Shows which cell starts; nbclient calls this."""
        self.place = place(self.nb, cell_index)
        print(f"{self.name}, {self.place}", flush=True)

    def process_message(self, msg, cell, cell_index):
        """Shows what a cell prints, as it comes; nbclient calls this."""
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().process_message(msg, cell, cell_index)


def leave_ctrl_c_alone(**kwargs):
    """Lets Ctrl-C raise KeyboardInterrupt; nbclient's own way ends in tracebacks."""
    with suppress(NotImplementedError):  # on Windows, where it has no such way
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)


def place(notebook, index):
    """Returns "cell 3 of 50: the section's heading" for notebook.cells[index]."""
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    heading = ""
    for cell in notebook.cells[:index]:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ (.*)", cell.source, flags=re.MULTILINE)
            heading = found[-1] if found else heading
    return f"cell {code.index(index) + 1} of {len(code)}: {heading}"


def set_parameters(notebook, values):
    """Replaces literals in the cell tagged `parameters`: {"EPOCHS": 1} and so on.

    Raises:
        ValueError: the cell has no such parameter.
    """
    for cell in notebook.cells:
        if "parameters" not in cell.metadata.get("tags", []):
            continue
        for name, value in values.items():
            # up to the comment that says what it is
            old = rf"^{name} = .*?(?=  #|$)"
            new = f"{name} = {value!r}"
            cell.source, count = re.subn(
                old, lambda match, new=new: new, cell.source, flags=re.MULTILINE
            )
            if count != 1:
                raise ValueError(f"the notebook has no parameter {name}")


def execute(notebook, name, folder=ROOT):
    """Runs all cells of a notebook (nbformat's), in `folder`; exits where one stops."""
    start = time.perf_counter()
    metadata = notebook.metadata.copy()
    client = ShownClient(notebook, name, folder)
    print(f"{name}: starting Python", flush=True)
    try:
        client.execute()
    except CellExecutionError as error:
        traceback = str(error)
        if not sys.stderr.isatty():
            # without the colours
            traceback = re.sub(r"\x1b\[[0-9;]*m", "", traceback)
        sys.exit(f"{traceback}\n{name} failed in {client.place}\n{KEPT}")
    except DeadKernelError:
        why = "Python ended, perhaps for want of memory, in"
        sys.exit(f"\n{name}: {why} {client.place}\n{KEPT}")
    except KeyboardInterrupt:
        client.shutdown_kernel = "immediate"
        sys.exit(f"\n{name} was stopped in {client.place}\n{KEPT}")
    # the same file on every Python
    notebook.metadata = metadata
    minutes = (time.perf_counter() - start) / 60
    print(f"{name}: all cells ran, {minutes:.1f} minutes", flush=True)


def run(name, target, values):
    """Runs the notebook `name`, with `values` as parameters, and writes `target`."""
    source = ROOT / name
    before = source.read_bytes()
    notebook = nbformat.reads(before.decode("utf-8"), as_version=4)
    set_parameters(notebook, values)
    execute(notebook, name)
    if target == source and source.read_bytes() != before:
        # saved meanwhile by somebody who has it open: both are kept
        target = source.with_suffix(".run.ipynb")
        print(f"{name} was changed meanwhile; the run is in {target.name}")
    target.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def main():
    """The command line: see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK")
    parser.add_argument("--quick", action="store_true", help="small parameters")
    parser.add_argument("--out", metavar="DIR", help="a quick run's folder")
    args = parser.parse_args()
    if not set(args.notebooks) <= SMALL.keys():
        parser.error(f"the notebooks are {' and '.join(SMALL)}")
    if args.out and not args.quick:
        parser.error("--out goes with --quick")
    # a terminal that cannot show a sign shows another
    sys.stdout.reconfigure(errors="replace")
    sys.stderr.reconfigure(errors="replace")

    build = [sys.executable, str(ROOT / "report/build.py")]
    if args.quick:
        out = Path(args.out or ROOT / "report/build/quick").resolve()
        out.mkdir(parents=True, exist_ok=True)
        build += ["--out", str(out)]
    for name in args.notebooks or SMALL:
        if args.quick:
            run(name, out / name, SMALL[name] | {"OUT": str(out)})
        else:
            run(name, ROOT / name, {})

    if args.quick:
        for name in SMALL:
            if not (out / name).exists():
                print(f"The report is not built: it needs a quick run of {name}, too.")
                sys.exit()
    sys.exit(subprocess.run(build).returncode)


if __name__ == "__main__":
    main()
