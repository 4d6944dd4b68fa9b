"""Data sets from the files that scikit-learn ships: one of images, three of tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import DatasetError
from icl_loop.tasks.datasets.table import Table


@dataclass(frozen=True, slots=True)
class BundledTable:
    """A table in scikit-learn's CSV format, whose first line has counts and class names.

    Attributes:
        file: The file name.
        columns: The column names, in order.
    """

    file: str
    columns: tuple[str, ...]


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

BUNDLED_TABLES: Mapping[str, BundledTable] = {
    "iris": BundledTable("iris.csv", _IRIS),
    "wine": BundledTable("wine_data.csv", _WINE),
    "breast_cancer": BundledTable(
        "breast_cancer.csv",
        tuple(
            statistic.format(name)
            for statistic, name in product(("mean {}", "{} error", "worst {}"), _NUCLEUS)
        ),
    ),
}


def load_table(name: str) -> tuple[Table, NDArray[np.intp], tuple[str, ...]]:
    """Return the rows, the class of each row, and the names of the classes of a bundled table."""
    bundled = BUNDLED_TABLES[name]
    path = _find(bundled.file)
    if path is None:
        raise DatasetError(f"the installed scikit-learn has no file {bundled.file}")
    with path.open(encoding="utf-8") as file:
        labels = file.readline().strip().split(",")[2:]
        rows = np.loadtxt(file, delimiter=",", ndmin=2)
    return Table(bundled.columns, rows[:, :-1]), rows[:, -1].astype(np.intp), tuple(labels)


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.intp], tuple[str, ...]]:
    """Return the UCI optical digits: 1,797 images of 8 x 8 pixels with 17 grey levels.

    The file is read directly, because importing scikit-learn takes seconds and 60 MiB.
    """
    path = _find("digits.csv.gz")
    if path is None:
        raise DatasetError("the installed scikit-learn has no file digits.csv.gz")
    rows = np.loadtxt(path, delimiter=",")
    images = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return images, rows[:, -1].astype(np.intp), tuple("0123456789")


def _find(file: str) -> Path | None:
    package = find_spec("sklearn")
    folders = (package and package.submodule_search_locations) or ()
    paths = (Path(folder, "datasets", "data", file) for folder in folders)
    return next((path for path in paths if path.exists()), None)
