"""The small data sets whose files come with scikit-learn: one of pictures, three of tables."""

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
class Bundled:
    """A table that comes with scikit-learn; its file begins with counts and the names of classes.

    Attributes:
        file: Name of the file.
        columns: Names of the columns, in order.
    """

    file: str
    columns: tuple[str, ...]


_CELL = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)
"""What was measured of cell nuclei: of each the mean, its error, and the mean of the three largest."""

TABLES: Mapping[str, Bundled] = {
    "iris": Bundled(
        "iris.csv",
        ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"),
    ),
    "wine": Bundled(
        "wine_data.csv",
        (
            "alcohol",
            "malic acid",
            "ash",
            "alcalinity of ash",
            "magnesium",
            "total phenols",
            "flavanoids",
            "nonflavanoid phenols",
            "proanthocyanins",
            "color intensity",
            "hue",
            "od280/od315 of diluted wines",
            "proline",
        ),
    ),
    "breast_cancer": Bundled(
        "breast_cancer.csv",
        tuple(
            form.format(name) for form, name in product(("mean {}", "{} error", "worst {}"), _CELL)
        ),
    ),
}


def table(name: str) -> tuple[Table, NDArray[np.intp], tuple[str, ...]]:
    """Return the rows, the classes and the names of the classes of a bundled table."""
    bundled = TABLES[name]
    path = _path(bundled.file)
    if path is None:
        raise DatasetError(f"scikit-learn has no file {bundled.file} any more")
    with path.open(encoding="utf-8") as file:
        labels = file.readline().strip().split(",")[2:]
        rows = np.loadtxt(file, delimiter=",", ndmin=2)
    return Table(bundled.columns, rows[:, :-1]), rows[:, -1].astype(np.intp), tuple(labels)


def digits() -> NDArray[np.float64]:
    """Return 64 levels and the class a row, shape (1797, 65), as `load_digits` reads them.

    The file is read without importing scikit-learn, which takes seconds and 60 MiB.
    """
    path = _path("digits.csv.gz")
    if path is not None:
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits  # noqa: PLC0415  only where the file has moved

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def _path(file: str) -> Path | None:
    """Return where a file of scikit-learn's data sets is, None if it has moved."""
    package = find_spec("sklearn")
    folders = (package and package.submodule_search_locations) or ()
    paths = (Path(folder, "datasets", "data", file) for folder in folders)
    return next((path for path in paths if path.exists()), None)
