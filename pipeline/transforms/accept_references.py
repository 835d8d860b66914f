"""The input of `ScoreImages`: which collections it takes, and how their elements are checked."""

from __future__ import annotations

from typing import NoReturn

import apache_beam as beam
from apache_beam.typehints.typehints import is_consistent_with

from pipeline.errors import JobError, SourceError
from pipeline.sources import ImageReference

_REMEDY = (
    "ListImages makes references of files, folders and lists; for one image write ImageReference('/photos/cat.jpg')"
)


class AcceptReferences(beam.PTransform):
    """PCollection -> PCollection[ImageReference], bounded and in the global window with the default trigger.

    A run is one table transaction, so all images of the run have to meet in one pane. The windows and triggers that a
    bounded collection brings from stages before it would split the run, or drop its last panes.
    """

    def expand(self, references: beam.PCollection) -> beam.PCollection:
        """Returns the references, in windows that suit a run.

        Raises:
            JobError: The input is not a PCollection, or is not bounded.
            SourceError: Its elements have a type that is not ImageReference. On a worker: so does an element.
        """
        check_input(references)
        if not references.windowing.is_default():
            references |= "One window" >> beam.WindowInto(beam.window.GlobalWindows())
        return references | "Check references" >> beam.Map(check_reference).with_output_types(ImageReference)


def check_input(references: object) -> None:
    """Checks what `ScoreImages` is applied to, while the pipeline is built.

    Raises:
        JobError: It is not a PCollection, or is not bounded.
        SourceError: Its elements have a type that is not ImageReference.
    """
    if not isinstance(references, beam.PCollection):
        raise JobError(
            f"ScoreImages is applied to {type(references).__name__}, which is not a PCollection",
            why="it takes references to images",
            remedy="put ListImages before it: pipeline | ListImages(['photos/']) | ScoreImages(...)",
        )
    if not references.is_bounded:
        raise JobError(
            f"the input of ScoreImages is not bounded: {references.producer.full_label}",
            why="a run publishes its maps at the end of its input, and this input has no end",
            remedy="read a bounded collection, and run again for images that come later: unchanged ones are not scored",
        )
    found = references.element_type  # None where Beam's type check is off
    # A wider type, such as a union, may turn out to be references: the worker checks every element.
    if (
        found is not None
        and not is_consistent_with(found, ImageReference)
        and not is_consistent_with(ImageReference, found)
    ):
        _refuse(getattr(found, "__name__", str(found)))


def check_reference(element: object) -> ImageReference:
    """Returns an element that is a reference with an address.

    Raises:
        SourceError: It is not.
    """
    if not isinstance(element, ImageReference):
        _refuse(f"{type(element).__name__}: {element!a:.200}")
    if not isinstance(element.uri, str) or not element.uri:
        raise SourceError(f"the address of a reference is {element.uri!a:.200}", remedy="give a path or scheme://")
    return element


def _refuse(found: str) -> NoReturn:
    raise SourceError(
        f"the input of ScoreImages has elements of type {found}", why="it takes ImageReference", remedy=_REMEDY
    )
