"""Bundled data sets: images and tables that scikit-learn ships, and texts of this package."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from icl_loop.core.errors import DatasetError
from icl_loop.tasks.datasets import csv_file
from icl_loop.tasks.datasets.columns import LoadedColumns
from icl_loop.tasks.datasets.dataset import Loaded
from icl_loop.tasks.datasets.table import Table

_IRIS = ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)")
_WINE = (
    *("alcohol", "malic acid", "ash", "alcalinity of ash", "magnesium", "total phenols"),
    *("flavanoids", "nonflavanoid phenols", "proanthocyanins", "color intensity", "hue"),
    *("od280/od315 of diluted wines", "proline"),
)
_NUCLEUS = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity"),
    *("concave points", "symmetry", "fractal dimension"),
)
"""Measurements of cell nuclei; the table has the mean, the error and the worst of each."""

BUNDLED_TABLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "iris": ("iris.csv", _IRIS),
    "wine": ("wine_data.csv", _WINE),
    "breast_cancer": (
        "breast_cancer.csv",
        tuple(
            form.format(name) for form in ("mean {}", "{} error", "worst {}") for name in _NUCLEUS
        ),
    ),
}
"""The file and the column names of each table."""

LIBRARY_DESK = "library_desk"
"""192 things that readers ask at the desk of a library, 24 for each of eight matters."""


def load_library_desk() -> LoadedColumns:
    """Return the bundled texts."""
    return csv_file.load(str(Path(__file__).with_name("library_desk.csv")))


def load_table(name: str) -> Loaded:
    """Return a bundled table; the first line of its file has counts and the class names."""
    file_name, columns = BUNDLED_TABLES[name]
    with _path(file_name).open(encoding="utf-8") as file:
        labels = file.readline().strip().split(",")[2:]
        rows = np.loadtxt(file, delimiter=",", ndmin=2)
    return Table(columns, rows[:, :-1]), rows[:, -1].astype(np.intp), tuple(labels)


DIGITS: Mapping[str, slice] = {
    "digits": slice(None),
    "digits:train": slice(0, None, 2),
    "digits:test": slice(1, None, 2),
}
"""Which of the images each data set of digits has. The built-in network was trained on `digits:train`."""


def load_digits(name: str = "digits") -> Loaded:
    """Return the UCI optical digits: 1,797 images of 8 x 8 pixels with 17 grey levels, or half of them."""
    rows = np.loadtxt(_path("digits.csv.gz"), delimiter=",")
    images = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    chosen = DIGITS[name]
    return images[chosen], rows[chosen, -1].astype(np.intp), tuple("0123456789")


def _path(file: str) -> Path:
    """Return the path of a data file; importing scikit-learn would take seconds and 60 MiB."""
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", file)
        if path.exists():
            return path
    raise DatasetError(f"the installed scikit-learn has no file {file}")
