"""Runs both notebooks from top to bottom, in place, and builds the report.

    python report/run.py                    # everything; the minutes are in README.md
    python report/run.py RealNVP.ipynb      # one notebook, then the report
    python report/run.py --quick            # a minute: few images, one epoch
    python report/run.py --quick --out DIR  # the same, into another folder

The terminal shows each cell's number and section, and what the cell prints, its
progress bar too. A notebook is written when all its cells have run: where one stops,
its traceback is shown and the file stays as it was.

A notebook that ran whole keeps a hash of its code in its metadata, which a test
compares with the code. Comments, docstrings and what only draws are not in it.

A quick run leaves the repository's notebooks, figures and numbers alone: its copies
of them, and its report, are in report/build/quick or DIR.
"""

import signal
import sys

if __name__ == "__main__":
    # SIGTERM is what Ctrl-C is
    signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    # a second or two, in which somebody may press Ctrl-C
    import argparse
    import ast
    import asyncio
    import atexit
    import hashlib
    import logging
    import os
    import re
    import subprocess
    import time
    from contextlib import suppress
    from pathlib import Path

    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
except KeyboardInterrupt:
    sys.exit("stopped before anything was run")

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
    "RealNVP.ipynb": {"N_TRAIN": 600, "N_TEST": 200, "EPOCHS": 1, "STEP_EPOCHS": 1},
}
KEPT = (
    "The notebook is as it was. Figures that the cells before drew are new ones, "
    "and the report was not built."
)


class ShownClient(NotebookClient):
    """Executes a notebook and shows on the terminal where it is."""

    def __init__(self, notebook, name):
        super().__init__(
            notebook,
            kernel_name="python3",
            # patience: its files may come over a network
            startup_timeout=600,
            # no warning about the connection to this same machine
            extra_arguments=["--log-level=ERROR"],
            # of a progress bar, the last state is kept
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": str(ROOT)}},
            on_cell_execute=self.show_place,
        )
        # what goes wrong is said by `execute`
        self.log = logging.getLogger("silent")
        self.log.setLevel(logging.CRITICAL + 1)
        self.name = name
        self.place = None
        self.stopped = False

    def create_kernel_manager(self):
        """Returns the kernel's manager; nbclient calls this."""
        super().create_kernel_manager()
        # the Python that runs this script, whichever kernels Jupyter knows
        self.km.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        return self.km

    async def async_start_new_kernel(self, **kwargs):
        """Starts Python; nbclient calls this."""
        task = asyncio.current_task()

        def stop_task():
            self.stopped = True
            self.shutdown_kernel = "immediate"
            task.cancel()

        # nbclient's own way with Ctrl-C ends in tracebacks
        # on Windows, and in a thread, as by Jupyter's %run, it cannot
        with suppress(RuntimeError):
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop_task)
        await super().async_start_new_kernel(**kwargs)

    def show_place(self, cell, cell_index):
        """Shows which cell starts, and its section's heading; nbclient calls this."""
        code = [cell for cell in self.nb.cells if cell.cell_type == "code"]
        heading = ""
        for above in self.nb.cells[:cell_index]:
            if above.cell_type == "markdown":
                found = re.findall(r"^#+ (.*)", above.source, flags=re.MULTILINE)
                heading = found[-1] if found else heading
        self.place = f"cell {code.index(cell) + 1} of {len(code)}: {heading}"
        print(f"{self.name}, {self.place}", flush=True)

    def process_message(self, msg, cell, cell_index):
        """Shows what a cell prints, as it comes; nbclient calls this."""
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().process_message(msg, cell, cell_index)


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


def only_draws(statement):
    """Whether a statement of a cell, or a function, is about a figure."""
    names = [n.id for n in ast.walk(statement) if isinstance(n, ast.Name)]
    names.append(getattr(statement, "name", ""))
    return any(re.fullmatch("ax|axes|fig|plt|save|plot_.*", name) for name in names)


def code_hash(notebook):
    """Returns a hash of the code (of a notebook's JSON) that computes its numbers.

    Without what only draws, comments, docstrings and empty lines: to change these
    costs no training.
    """
    kept = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        tree = ast.parse(source)
        lines = source.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                doc = node.body[0]
                if ast.get_docstring(node):
                    for i in range(doc.lineno - 1, doc.end_lineno):
                        lines[i] = ""
        for node in tree.body:
            if not only_draws(node):
                # a decorator stands above the line of its function
                above = [part.lineno for part in getattr(node, "decorator_list", [])]
                first = min([node.lineno, *above])
                kept += lines[first - 1 : node.end_lineno]
    kept = [re.sub(r"(^|\s)\s*#.*", "", line).rstrip() for line in kept]
    text = "\n".join(line for line in kept if line)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def execute(notebook, name):
    """Runs all cells of a notebook (nbformat's); exits where one stops."""
    start = time.perf_counter()
    client = ShownClient(notebook, name)
    print(f"{name}: starting {sys.executable}", flush=True)
    try:
        client.execute()
    except CellExecutionError as error:
        traceback = str(error)
        if not sys.stderr.isatty():
            # without the colours
            traceback = re.sub(r"\x1b\[[0-9;]*m", "", traceback)
        sys.exit(f"{traceback}\n{name} failed in {client.place}\n{KEPT}")
    except (DeadKernelError, asyncio.CancelledError, KeyboardInterrupt) as error:
        what = "failed: Python ended, perhaps for want of memory,"
        if client.stopped or isinstance(error, KeyboardInterrupt):
            what = "was stopped"
        sys.exit(f"\n{name} {what} in {client.place or 'its start'}\n{KEPT}")
    except (RuntimeError, OSError) as error:
        if client.place:
            raise
        # nbclient cleaned up already
        atexit.unregister(client._cleanup_kernel)
        sys.exit(f"{name}: {sys.executable} does not run notebooks: {error}\n{KEPT}")
    # the same file on every Python, and what it becomes when it is exported
    notebook.metadata.language_info = {"name": "python", "file_extension": ".py"}
    minutes = (time.perf_counter() - start) / 60
    print(f"{name}: all cells ran, {minutes:.1f} minutes", flush=True)


def run(name, target, values):
    """Runs the notebook `name`, with `values` as parameters, and writes `target`."""
    source = ROOT / name
    before = source.read_bytes()
    notebook = nbformat.reads(before.decode("utf-8"), as_version=4)
    # Jupyter adds an empty cell where one runs the last
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    set_parameters(notebook, values)
    execute(notebook, name)
    if target == source:
        notebook.metadata.code_hash = code_hash(notebook)
        if source.read_bytes() != before:
            # saved meanwhile by somebody who has it open: both are kept
            target = source.with_suffix(".run.ipynb")
            print(f"{name} was changed meanwhile; the run is in {target.name}")
    text = nbformat.writes(notebook) + "\n"
    # whole or not at all, whatever happens
    part = target.with_name(target.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, target)
    except OSError as error:
        sys.exit(f"{target} cannot be written ({error.strerror})\n{KEPT}")
    finally:
        part.unlink(missing_ok=True)


def quick_folder(out):
    """Returns the folder of a quick run, made where it is missing.

    Exits where it holds what is not of a quick run, and would be overwritten.
    """
    out = Path(out).expanduser().resolve()
    mark = out / "quick-run.txt"
    written = [*SMALL, "figures", "results", "build", "report.pdf"]
    found = [name for name in written if (out / name).exists()]
    if found and not mark.exists():
        sys.exit(
            f"{out} holds {', '.join(found)}, which no quick run made and this one "
            "would overwrite: give it another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text("A quick run's: the next one overwrites it.\n", encoding="utf-8")
    return out


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
    for stream in (sys.stdout, sys.stderr):
        # a terminal that cannot show a sign shows another; Jupyter's own shows all
        with suppress(AttributeError):
            stream.reconfigure(errors="replace")

    folder = ROOT
    build = [sys.executable, str(ROOT / "report/build.py")]
    if args.quick:
        folder = quick_folder(args.out or ROOT / "report/build/quick")
        build += ["--out", str(folder)]
    for name in args.notebooks or SMALL:
        values = SMALL[name] | {"OUT": str(folder)} if args.quick else {}
        run(name, folder / name, values)
    for name in SMALL:
        if not (folder / name).exists():
            print(f"The report is not built: it needs a quick run of {name}, too.")
            sys.exit()
    sys.exit(subprocess.run(build).returncode)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped")
