"""Charts that notebooks display without a network."""

import io
from typing import Any

import altair as alt
from altair.utils.mimebundle import spec_to_mimebundle
from PIL import Image


class _Inline(alt.TopLevelMixin):
    """A chart that is displayed as an image, drawn by the Vega that vl-convert contains.

    Altair's own HTML loads Vega from another site. A renderer that was chosen with
    `altair.renderers.enable` is used instead, such as `enable("html", offline=True)`, which takes 0.9 MB
    per chart and shows tooltips.
    """

    def _repr_mimebundle_(self, *args: Any, **kwds: Any) -> Any:  # noqa: ANN401  as in the base class
        """Return the chart in a form that notebooks display."""
        if alt.renderers.active != "default":
            return super()._repr_mimebundle_(*args, **kwds)
        drawn, size = spec_to_mimebundle(self.to_dict(), format="png", mode="vega-lite", ppi=144)
        small = io.BytesIO()  # with a palette, an image takes a tenth of the space in a notebook
        Image.open(io.BytesIO(drawn["image/png"])).convert("RGB").quantize().save(small, "PNG")
        return {"image/png": small.getvalue()}, size


class InlineLayerChart(_Inline, alt.LayerChart):
    """A chart of layers that notebooks display without a network."""


class InlineConcatChart(_Inline, alt.ConcatChart):
    """Panels that notebooks display without a network."""
