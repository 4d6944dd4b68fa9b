"""MNIST, Fashion-MNIST and KMNIST: found in a folder, or downloaded once and checked.

Addresses and checksums are those that the publishers and torchvision list.
"""

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from icl_loop.core.errors import DatasetError
from icl_loop.tasks.datasets import idx

DATA_VARIABLE = "ICL_LOOP_DATA"
CACHE_VARIABLE = "ICL_LOOP_CACHE"

_DIGITS = tuple("0123456789")


@dataclass(frozen=True, slots=True)
class Published:
    """A data set that others publish as four gzipped IDX files.

    Attributes:
        mirrors: Addresses that hold the files, tried in order.
        labels: Names of the classes, by the number in the label file.
        checksums: File name to checksum, in pooch's notation.
    """

    mirrors: tuple[str, ...]
    labels: tuple[str, ...]
    checksums: dict[str, str]


def _files(*checksums: str) -> dict[str, str]:
    names = (f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in KINDS)
    return dict(zip(names, checksums, strict=True))


KINDS = ("images-idx3", "labels-idx1")
SPLITS = {"train": "train", "test": "t10k"}

PUBLISHED = {
    "mnist": Published(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        labels=_DIGITS,
        checksums=_files(
            "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": Published(
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        labels=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        checksums=_files(
            "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "kmnist": Published(
        mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        labels=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        checksums=_files(
            "md5:bdb82020997e1d708af4cf47b453dcf7",
            "md5:e144d726b3acfaa3e44228e80efcd344",
            "md5:5c965bf0a639b31b8f53240b1b52f4d7",
            "md5:7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
}


def find(name: str, split: str, published: Published) -> tuple[Path, Path]:
    """Return the paths of the image and label files, downloading them if they are not here.

    Raises:
        DatasetError: A file is nowhere to be had; the message says where to put it.
    """
    images, labels = (
        _find_file(name, f"{SPLITS[split]}-{kind}-ubyte.gz", published) for kind in KINDS
    )
    return images, labels


def is_here(name: str, split: str) -> bool:
    """Whether its files are on this machine, so that finding them downloads nothing."""
    files = [f"{SPLITS[split]}-{kind}-ubyte.gz" for kind in KINDS]
    return all(_given(name, file) or idx.present(_cache(name) / file) for file in files)


def _given(name: str, file: str) -> Path | None:
    """Return the path of a file in the folder that holds data, None without either."""
    folder = os.environ.get(DATA_VARIABLE)
    path = Path(folder, name, file) if folder else None
    return path and idx.present(path, path.with_suffix(""))


def _cache(name: str) -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("icl-loop")) / name


def _find_file(name: str, file: str, published: Published) -> Path:
    return _given(name, file) or _download(name, file, published)


def _download(name: str, file: str, published: Published) -> Path:
    """Return the path of the checked file in the cache, fetching it from the first mirror that can."""
    cache = _cache(name)
    pooch.get_logger().setLevel(logging.WARNING)
    reasons = []
    for mirror in published.mirrors:
        try:
            return Path(
                pooch.retrieve(
                    mirror + file,
                    known_hash=published.checksums[file],
                    fname=file,
                    path=cache,
                    progressbar=sys.stderr.isatty(),
                )
            )
        except (requests.RequestException, ValueError) as error:
            reasons.append(f"{mirror}: {_brief(error)}")
        except OSError as error:
            raise DatasetError(
                f"{file} of {name} cannot be kept in {cache}: {error.strerror or error};"
                f" set {CACHE_VARIABLE} to another folder"
            ) from None
    here = " (what is there has the wrong checksum)" if idx.present(cache / file) else ""
    raise DatasetError(
        f"{name} is not on this machine and could not be downloaded ({'; '.join(reasons)})."
        f" Put {file} into {cache}{here}, or set {DATA_VARIABLE} to a folder that holds"
        f" {name}/{file}; the data set 'digits' needs no download"
    )


def _brief(error: requests.RequestException | ValueError) -> str:
    """Return why a mirror gave nothing; pooch raises a plain ValueError for a wrong checksum."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, requests.RequestException):
        return f"the download broke off ({type(error).__name__})"
    return "wrong checksum"
