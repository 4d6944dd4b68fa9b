"""Execute the example notebook; as a program, write it again with its outputs."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"


class _Client(NotebookClient):
    """A client that keeps what the cells display, also what they replace later."""

    def __init__(self, notebook: nbformat.NotebookNode, folder: str) -> None:
        place = {"metadata": {"path": folder}}
        super().__init__(notebook, timeout=280, resources=place, record_timing=False)
        self.displayed: list[str] = []

    def process_message(
        self, msg: dict[str, Any], cell: nbformat.NotebookNode, cell_index: int
    ) -> nbformat.NotebookNode | None:
        """Handle a message of the kernel."""
        self.displayed.append(msg["content"].get("data", {}).get("text/html", ""))
        return super().process_message(msg, cell, cell_index)


def executed(path: Path = NOTEBOOK) -> tuple[nbformat.NotebookNode, list[str]]:
    """Return a notebook after its cells have been run in an empty folder, and the HTML displayed."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        client = _Client(notebook, folder)
        client.execute()
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if not _is_empty(each)]
    return notebook, client.displayed


def _is_empty(output: nbformat.NotebookNode) -> bool:
    """Return whether an output displays nothing, such as progress after the end of its run."""
    return output.output_type == "display_data" and not any(output.data.values())


if __name__ == "__main__":
    nbformat.write(executed()[0], NOTEBOOK)
