"""Questions of probes: transcripts do not store them, so they are rebuilt from the data set."""

from collections.abc import Mapping

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message
from icl_loop.experiment import Session
from icl_loop.report.experiment_settings import flat
from icl_loop.tasks.datasets import is_available_locally
from icl_loop.tasks.encodings import ENCODINGS
from icl_loop.transcripts import Header

_OF_PICTURES = ("digits", "mnist:", "fashion-mnist:", "kmnist:", "idx:", "folder:")
"""Prefixes of the names of image data sets."""


def held_out(header: Header) -> Mapping[str, Message]:
    """Return the probe questions of a session on images, by sample id.

    Empty if the data set has changed or would have to be downloaded.
    """
    task = flat(header.settings)
    name = str(task.get("task.dataset"))
    how = ENCODINGS.get(str(task.get("task.encoding")))
    if how is None or how.modality != "picture" or not name.startswith(_OF_PICTURES):
        return {}
    try:
        return _asked(header) if is_available_locally(name) else {}
    except InputError:
        return {}  # the page shows these probes without images


def _asked(header: Header) -> dict[str, Message]:
    task = Session.of(header).task
    return {sample.id: task.question_about(sample) for sample in task.probes}
