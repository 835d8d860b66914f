"""The description of a scoring job, validated against the declarations of `pipeline.settings`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator
from pydantic_core import to_jsonable_python

from pipeline.engines.devices import AUTO, check_wanted
from pipeline.errors import JobError, SettingError
from pipeline.images.decode import DecodeLimits
from pipeline.maps.recipe import Precision, Recipe
from pipeline.scoring.scorer import Limits
from pipeline.settings import (
    FLINK,
    GROUPS,
    LOCAL,
    ExecutionSettings,
    LimitSettings,
    PolicySettings,
    RecipeSettings,
    Unit,
    WebSettings,
    declared,
)
from pipeline.sources import Allowed, Listing, WebLimits
from pipeline.sources.reference import resolve
from pipeline.sources.web_address import public
from pipeline.storage.options import StorageOptions, default_options, storage_options
from pipeline.table.part_file import new_run_id
from pipeline.table.paths import TableRoot
from pipeline.units import parse_share

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """All that a run depends on; `describe_job` makes one from flat values.

    Attributes:
        model: A model directory.
        images: Folders, files, glob patterns, archives, or manifests (`@list.csv`).
        output: The table to write to; made if there is none.
        run_id: Names the run.
        recipe: What is made of every image.
        policy: How the run treats what the table already has.
        limits: What is read and decoded at all.
        web: How images behind HTTP are fetched, and what fetched lists may name.
        execution: Where and how the run computes.
        storage: How object stores are opened, for images and table; not among `flat`, for it may hold secrets.
    """

    model: str
    images: tuple[str, ...]
    output: str
    run_id: str
    recipe: RecipeSettings
    policy: PolicySettings
    limits: LimitSettings
    web: WebSettings
    execution: ExecutionSettings
    storage: StorageOptions = dataclasses.field(default_factory=default_options)

    @property
    def table(self) -> TableRoot:
        """The table to write to, with the options of its storage."""
        return TableRoot(self.output, self.storage)

    def flat(self) -> dict[str, object]:
        """Returns all values by name, without their groups: the arguments of `describe_job`."""
        values: dict[str, object] = {}
        for field in dataclasses.fields(self):
            if field.name == "storage":
                continue
            value = getattr(self, field.name)
            values |= vars(value) if field.name in GROUPS else {field.name: value}
        return values

    def as_json(self) -> dict[str, object]:
        """Returns `flat` in JSON's types, as a run's summary keeps it: without secrets in addresses."""
        values: dict[str, object] = to_jsonable_python(self.flat())
        return {**values, "images": [_public(argument) for argument in self.images]}

    def what_it_makes(self) -> dict[str, object]:
        """Returns those of `as_json` that the rows of the table depend on, without those that are the default."""
        flat = self.flat()
        left_out = {
            setting.name
            for setting in declared().values()
            if not setting.help.changes_maps or flat[setting.name] == setting.default
        }
        return {name: value for name, value in self.as_json().items() if name not in left_out | {"run_id"}}

    def replace(self, **changes: object) -> ScoringJob:
        """Returns the job with some values changed, by their flat names; raises JobError as `describe_job` does."""
        return describe_job(**{"storage": self.storage, **self.flat(), **changes})

    def map_recipe(self) -> Recipe:
        """Returns what is made of every image, as workers take it."""
        settings = self.recipe
        return Recipe(
            form=settings.scores,
            k=settings.top_k,
            precision=settings.precision,
            features=settings.features,
            scales=settings.scales,
            resize=settings.resize,
            max_side=settings.max_side,
            windows=settings.windows,
            window_filter=settings.window_filter,
            window_resize=settings.window_resize,
            window_mean=settings.window_mean,
        )

    def worker_limits(self) -> Limits:
        """Returns what is read and decoded, as workers take it."""
        settings = self.limits
        return Limits(
            decode=DecodeLimits(
                max_pixels=settings.max_pixels,
                max_tiled_pixels=settings.max_tiled_pixels,
                strict=settings.strict_images,
            ),
            max_image_bytes=settings.max_image_bytes,
            tile_pixels=settings.tile_pixels,
            decode_timeout_s=settings.decode_timeout,
            web=WebLimits(
                connect_s=self.web.web_connect_timeout,
                read_s=self.web.web_read_timeout,
                total_s=self.web.web_timeout,
                attempts=self.web.web_attempts,
                host_failures=self.web.web_host_failures,
                host_s=self.web.web_host_timeout,
                allow_hosts=self.web.allow_host,
            ),
            load_bytes=settings.load_bytes,
        )

    def listing(self) -> Listing:
        """Returns how the images are listed."""
        return Listing(
            self.storage,
            self.limits.frames,
            resolve(self.policy.root) if self.policy.root else "",
            Allowed(self.web.allow_host, self.web.allow_root),
            allow_empty=self.policy.allow_empty,
        )

    @property
    def leaves_open(self) -> bool:
        """Whether it leaves something open that is chosen by its images."""
        settings = self.recipe
        return settings.precision is not Precision.FLOAT32 or settings.accuracy_bound is not None or self.execution.xla

    def launcher_device(self) -> str:
        """Returns the device of the process that starts the run: a launcher of a cluster's job needs no GPU."""
        return self.execution.device if self.execution.runner == LOCAL else AUTO


class _Subject(BaseModel):
    """The values without a default, and what is checked of several values together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    images: tuple[str, ...] = Field(min_length=1)
    output: str = Field(min_length=1)
    run_id: str = Field(default_factory=new_run_id)

    @model_validator(mode="after")
    def _check_cluster(self) -> _Subject:
        runner, master = (getattr(self, name) for name in ("runner", "flink_master"))
        if runner == FLINK and not master:
            raise ValueError(f"{FLINK} needs the address of a cluster: give flink-master")
        if master and runner != FLINK:
            raise ValueError(f"flink-master is for the runner {FLINK} only, not for {runner}")
        return self


def read_share(value: object) -> object:
    """Returns a share that is written as text as a number, and any other value as it is; for pydantic's validators.

    Raises:
        ValueError: The text is not a share.
    """
    if not isinstance(value, str):
        return value
    try:
        return parse_share(value)
    except JobError as error:
        raise ValueError(f"{error.what}: {error.remedy}") from error


def _flat_model() -> type[_Subject]:
    """Returns the model that validates all values of a job by their flat names."""
    # pydantic types the arguments of create_model as Any.
    fields: dict[str, Any] = {
        setting.name: (
            setting.kind | None if setting.optional else setting.kind,
            Field(setting.default, **setting.range._asdict()),
        )
        for setting in declared().values()
    }
    shares = [setting.name for setting in declared().values() if setting.unit is Unit.SHARE]
    validators = {"read_share": field_validator(*shares, mode="before")(read_share)}
    return create_model("ScoringJob", __base__=_Subject, __validators__=validators, **fields)


_FLAT_MODEL = _flat_model()

JOB_KEYS = frozenset(_FLAT_MODEL.model_fields)
"""The flat names of all that a job says."""


def describe_job(**values: object) -> ScoringJob:
    """Returns the job that flat values describe: `describe_job(model="m", images=["photos/"], output="t", top_k=3)`.

    Args:
        values: Fields of `ScoringJob`, and settings of `pipeline.settings`, by their names; `storage` may be None.

    Raises:
        SettingError: A value is missing, unknown or out of range; the message names every such field.
    """
    storage = values.pop("storage", None)
    try:
        valid = vars(_FLAT_MODEL.model_validate(values))
    except ValidationError as error:
        raise SettingError(f"the job is not valid: {problems(error)}") from error
    groups = {group: _take(valid, holder) for group, holder in GROUPS.items()}
    job = _take({**valid, **groups, "storage": storage_options(cast("StorageOptions | None", storage))}, ScoringJob)
    _ = job.map_recipe().scaling  # refuses sizes that are out of range
    job.listing()
    check_wanted(job.execution.device)
    return job


def _public(argument: str) -> str:
    mark = "@" if argument.startswith("@") else ""
    return mark + public(argument.removeprefix("@"))


def _take(values: dict[str, Any], holder: type[T]) -> T:
    """Returns a dataclass made from those values that are its fields."""
    return holder(**{field.name: values[field.name] for field in dataclasses.fields(holder)})


def problems(error: ValidationError) -> str:
    """Returns what is wrong with the fields of a model, each by its name; some are wrong together."""
    parts = [(".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors()]
    return "; ".join(": ".join(filter(None, part)) for part in parts)
