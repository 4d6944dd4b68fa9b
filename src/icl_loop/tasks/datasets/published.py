"""MNIST, Fashion-MNIST and KMNIST: read from a folder, or downloaded once and verified.

Addresses and checksums are those of the publishers and of torchvision.
"""

import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import requests

from icl_loop.core.errors import DatasetError, reason_of
from icl_loop.tasks.datasets import idx
from icl_loop.tasks.datasets.dataset import Loaded
from icl_loop.tasks.datasets.idx import exists

with warnings.catch_warnings(action="ignore"):  # in notebooks, about widgets for its progress bar
    import pooch

DATA_VARIABLE = "ICL_LOOP_DATA"
CACHE_VARIABLE = "ICL_LOOP_CACHE"

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
"""The files with the images and the labels of each split."""


@dataclass(frozen=True, slots=True)
class PublishedDataset:
    """A data set that is published as gzipped IDX files."""

    mirrors: tuple[str, ...]
    """Addresses of folders with the files, tried in order."""
    labels: tuple[str, ...]
    """Names of the classes, by their number in the label file."""
    checksums: dict[str, str]
    """File name to checksum, in pooch's notation."""


def _checksums(*checksums: str) -> dict[str, str]:
    return dict(zip((*FILES["train"], *FILES["test"]), checksums, strict=True))


PUBLISHED_DATASETS = {
    "mnist": PublishedDataset(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        labels=tuple("0123456789"),
        checksums=_checksums(
            "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": PublishedDataset(
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        labels=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        checksums=_checksums(
            "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "kmnist": PublishedDataset(
        mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        labels=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        checksums=_checksums(
            "md5:bdb82020997e1d708af4cf47b453dcf7",
            "md5:e144d726b3acfaa3e44228e80efcd344",
            "md5:5c965bf0a639b31b8f53240b1b52f4d7",
            "md5:7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
}


def load(name: str, split: str) -> Loaded:
    """Return the images of a data set, the class of each image, and the names of the classes.

    Raises:
        DatasetError: A file cannot be found, downloaded or read, or does not have all labels.
    """
    dataset = PUBLISHED_DATASETS[name]
    images, classes, numbers = idx.load_pair(*find_files(name, split, dataset))
    if numbers != tuple(str(number) for number in range(len(dataset.labels))):
        raise DatasetError(
            f"{name}:{split} should have labels 0 to {len(dataset.labels) - 1}, found"
            f" {', '.join(numbers)}"
        )
    return images, classes, dataset.labels


def find_files(name: str, split: str, dataset: PublishedDataset) -> tuple[Path, Path]:
    """Return the paths of the image and label files, downloading them if needed.

    Raises:
        DatasetError: A file cannot be found or downloaded; the message says where to put it.
    """
    paths = [_local_path(name, file) or _download(name, file, dataset) for file in FILES[split]]
    return paths[0], paths[1]


def is_downloaded(name: str, split: str) -> bool:
    """Return whether the files are on this machine."""
    return all(_local_path(name, file) or exists(_cache(name) / file) for file in FILES[split])


def _local_path(name: str, file: str) -> Path | None:
    """Return the path of a file, gzipped or not, under $ICL_LOOP_DATA."""
    folder = os.environ.get(DATA_VARIABLE)
    packed = Path(folder or "", name, file)
    return next(filter(exists, (packed, packed.with_suffix("")) if folder else ()), None)


def _cache(name: str) -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("icl-loop")) / name


def _download(name: str, file: str, dataset: PublishedDataset) -> Path:
    """Return the path of the verified file in the cache, downloading it from the first good mirror."""
    cache = _cache(name)
    pooch.get_logger().setLevel(logging.WARNING)
    problems = []
    for mirror in dataset.mirrors:
        try:
            return Path(
                pooch.retrieve(
                    mirror + file,
                    known_hash=dataset.checksums[file],
                    fname=file,
                    path=cache,
                    progressbar=sys.stderr.isatty(),
                )
            )
        except (requests.RequestException, ValueError) as error:
            problems.append(f"{mirror}: {_summary(error)}")
        except OSError as error:
            raise DatasetError(
                f"{file} of {name} cannot be written to {cache}: {reason_of(error)};"
                f" set {CACHE_VARIABLE} to another folder"
            ) from None
    existing = " (the file there has the wrong checksum)" if exists(cache / file) else ""
    raise DatasetError(
        f"{name} is not on this machine and could not be downloaded ({'; '.join(problems)})."
        f" Put {file} into {cache}{existing}, or set {DATA_VARIABLE} to a folder that contains"
        f" {name}/{file}. The data set 'digits' needs no download"
    )


def _summary(error: requests.RequestException | ValueError) -> str:
    """Return why a download failed; pooch raises a plain ValueError for a wrong checksum."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "timeout"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, requests.RequestException):
        return f"download failed ({type(error).__name__})"
    return "wrong checksum"
