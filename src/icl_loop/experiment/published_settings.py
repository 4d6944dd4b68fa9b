"""The published result that an arm is compared with."""

from icl_loop.experiment.validation import STRICT
from icl_loop.transcripts.header import PublishedIdentity


class PublishedSettings(PublishedIdentity):
    """`published` of an arm: the published condition that it mirrors, and the result."""

    model_config = STRICT
