"""Beam's options, without their cost at each transform."""

from __future__ import annotations

from typing import TypeVar, cast

from apache_beam.options.pipeline_options import PipelineOptions

_OptionsT = TypeVar("_OptionsT", bound=PipelineOptions)


class SharedViews(PipelineOptions):
    """Options of which each view is made once.

    Beam asks for several views at each transform that it applies, and each view builds a parser for the flags of its
    class: some 450 parsers for a scoring job, which cost more than all else that building the pipeline does. All views
    of the same options share their values, so a view that is kept sees later changes too.
    """

    def view_as(self, cls: type[_OptionsT]) -> _OptionsT:
        """Returns the view of these options as a class of options; see Beam's own method."""
        # Through __dict__, since Beam's __setattr__ takes only the names of flags.
        views: dict[type[PipelineOptions], PipelineOptions] = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return cast(_OptionsT, views[cls])
