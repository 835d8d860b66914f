"""Beam's flags, checked before a job starts: Beam itself drops what it does not know, with a log message at most."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NoReturn

from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser
from apache_beam.runners.runner import PipelineRunner

from conversion import nearest
from pipeline.errors import JobError

_OURS = {
    "--runner": "give it before the flags of Beam: --runner=NAME, or `runner` in a job file",
    "--flink_master": "give --flink-master instead, or `flink-master` in a job file",
}
_ASKED_LATER = {"FlinkRunner", "SparkRunner"}
"""Runners that start a job server of their own, in Java, which has flags that Beam's Python SDK does not list."""


def check_flags(runner: PipelineRunner, flags: Sequence[str], of_server: Collection[str] = ()) -> None:
    """Checks that a runner understands the flags that a user gives to Beam.

    A flag that Beam's SDK does not list passes for FlinkRunner and SparkRunner, unless it looks like one that it lists.

    Args:
        runner: The runner.
        flags: The user's flags.
        of_server: Flags that the job server of the runner lists.

    Raises:
        JobError: A flag is unknown, is misspelt, has a wrong value, or is densecast's own; a word is not a flag.
    """
    known, unknown = parse_flags(flags, of_server)
    for word in unknown:
        if not word.startswith("-"):
            raise JobError(
                f"{word!a} is not a flag of Beam",
                why="Beam would ignore it",
                remedy="write --name=value; images stand before --",
            )
        _check_unknown(runner, word.partition("=")[0], known)


def parse_flags(flags: Sequence[str], of_server: Collection[str] = ()) -> tuple[Collection[str], Sequence[str]]:
    """Returns the names of all flags that are known, and the words that are unknown.

    Args:
        flags: The user's flags.
        of_server: Flags that the job server of the runner lists.

    Raises:
        JobError: A flag has a wrong value, or is densecast's own.
    """
    for flag in flags:
        name = flag.partition("=")[0]
        if name in _OURS:
            raise JobError(f"{name} cannot be one of Beam's flags", remedy=_OURS[name])
    # All flags of all classes of options, as in `PipelineOptions.get_all_options`.
    parser = _Parser(allow_abbrev=False, add_help=False)
    for options in dict.fromkeys(PipelineOptions.__subclasses__()):
        options._add_argparse_args(parser)
    known = {name for action in parser._actions for name in action.option_strings}
    for name in sorted(set(of_server) - known):
        parser.add_argument(name, nargs="?")
    return known.union(of_server), parser.parse_known_args(list(flags))[1]


def _check_unknown(runner: PipelineRunner, name: str, known: Collection[str]) -> None:
    close = nearest(name.replace("-", "_").replace("__", "--", 1), known, cutoff=0.8)
    if close:
        raise JobError(f"Beam has no flag {name!a}", why="it would ignore the flag", remedy=f"did you mean {close[0]}?")
    if type(runner).__name__ not in _ASKED_LATER:
        raise JobError(
            f"Beam has no flag {name!a} for {type(runner).__name__}",
            why="it would ignore the flag",
            remedy="leave it out; the flags are those of Beam's PipelineOptions and of the job server",
        )


class _Parser(_BeamArgumentParser):
    """Beam's own parser, since its options use more than argparse has; its errors are typed."""

    def error(self, message: str) -> NoReturn:
        raise JobError(f"a flag of Beam is wrong: {message}", remedy="correct the flags after --, or beam-options")
