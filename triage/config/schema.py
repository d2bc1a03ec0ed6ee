"""The configuration: one frozen tree, validated as a whole. Units are in the names."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

DEFAULT_QUIET_S: dict[str, float] = {"CR": 5.0, "DX": 5.0, "CT": 20.0}


def checked_ae_title(value: str) -> str:
    """Return an AE title without padding; raises ``ValueError`` if it is none."""
    if not 1 <= len(value.strip()) <= 16 or "\\" in value or not value.isascii() or not value.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash (PS3.5 6.2)")
    return value.strip()


AETitle = Annotated[str, AfterValidator(checked_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys refused, every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Peer(Section):
    """A sender that may associate."""

    ae_title: AETitle
    address: str = Field("0.0.0.0/0", description="address or CIDR block the peer connects from")

    @field_validator("address")
    @classmethod
    def _is_network(cls, value: str) -> str:
        ip_network(value, strict=False)
        return value

    @property
    def network(self) -> IPv4Network | IPv6Network:
        """The address block this peer may come from."""
        return ip_network(self.address, strict=False)


class Listen(Section):
    """The DICOM port."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: Port = Field(11112, description="DICOM port")
    ae_title: AETitle = Field("TRIAGE", description="our AE title; callers must use it")
    max_associations: int = Field(32, ge=1, description="associations at once")
    max_associations_per_peer: int = Field(16, ge=1, description="associations at once from one address")
    idle_timeout_s: float = Field(60, gt=0, description="a silent association is aborted after this")
    min_free_gib: float = Field(2, ge=0, description="below this much free disk C-STORE answers A700")
    peer: tuple[Peer, ...] = Field((), description="who may associate; none = anybody (warned at start)")


class Broker(Section):
    """Celery's transport."""

    url: str = Field("embedded", description='"embedded" (a Valkey run by serve), or redis:// or rediss://')

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if value != "embedded" and not value.startswith(("redis://", "rediss://", "redis+socket://")):
            raise ValueError('broker.url is "embedded" or starts with redis:// or rediss://')
        return value


class Ledger(Section):
    """Where the ledger lives."""

    url: str = Field("", description='"" = SQLite in data_dir, or postgresql+psycopg://user:password@host/db')

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if value and not value.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise ValueError('ledger.url is "", sqlite:///FILE or postgresql+psycopg://…')
        return value


class Complete(Section):
    """When a study is taken to be complete."""

    quiet_s: dict[str, Annotated[float, Field(gt=0)]] = Field(
        DEFAULT_QUIET_S, description="seconds without a new object, by Modality; others wait as long as CT"
    )
    max_wait_s: float = Field(900, gt=0, description="the cap: complete at the latest this long after the first object")
    count_at_destination: bool = Field(
        False, description="compare the instance count by C-FIND at the first destination that supports it"
    )

    @field_validator("quiet_s")
    @classmethod
    def _fill_defaults(cls, value: dict[str, float]) -> dict[str, float]:
        return {**DEFAULT_QUIET_S, **{k.upper(): v for k, v in value.items()}}


class Worker(Section):
    """The Celery workers."""

    device: str = Field("auto", description='"auto", "cpu", "cuda" or "cuda:1"')
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description='of the coupling nets; "bfloat16" = a faster preview, refused where it moves scores'
    )
    score_processes: int = Field(1, ge=0, description="score workers on this machine; 0 = they run elsewhere")
    prepare_processes: int = Field(1, ge=0, description="prepare workers on this machine")

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
            raise ValueError('worker.device is "auto", "cpu", "cuda" or "cuda:N"')
        return value


class Models(Section):
    """The bundles that score."""

    dir: str = Field("", description='folder of bundles; "" = the starter bundles shipped with the program')
    cxr: str = Field("cxr-starter", description="bundle for chest X-rays; empty = don't score them")
    bct: str = Field("bct-starter", description="bundle for brain CTs; empty = don't score them")


class Destination(Section):
    """A PACS that gets the results."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="a name of your choice")
    host: str
    port: Port
    ae_title: AETitle
    storage_commitment: bool = Field(True, description="ask for proof by storage commitment; else by C-FIND")
    send: tuple[Literal["sr", "not_scored", "heatmap"], ...] = Field(
        ("sr",),
        description='what it gets: "sr" results; "not_scored" adds SRs that say why a radiograph or CT has no score; '
        '"heatmap" adds relevance maps, off by default: triage must not direct attention to a part of an image, and a '
        "map that does argues for another kind of device (21 CFR 892.2070: a CADe is not for triage). Research only",
    )

    @field_validator("send")
    @classmethod
    def _no_map_without_a_report(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "heatmap" in value and "sr" not in value:
            raise ValueError('"heatmap" needs "sr": a relevance map is never sent without its report')
        return value


class Rank(Section):
    """The worklist's order."""

    high_percentile: float = Field(95, ge=0, le=100, description="abnormality percentile from which a study is HIGH")
    medium_percentile: float = Field(80, ge=0, le=100, description="… from which it is MEDIUM")
    max_wait_s: float = Field(14400, gt=0, description="a study that waited longer goes before every AI priority")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.medium_percentile > self.high_percentile:
            raise ValueError("medium_percentile is above high_percentile: no study could be MEDIUM")
        return self


class Web(Section):
    """The worklist's web server."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(8080, description="HTTP port")
    viewer_url: str = Field(
        "", description='link of a study, e.g. "https://…/viewer?StudyInstanceUIDs={study_instance_uid}"'
    )


class Configuration(Section):
    """Everything that a site can set. Read once, frozen, passed in."""

    data_dir: Path = Field(Path("triage-data"), description="objects, ledger, broker's file, secrets")
    listen: Listen = Listen()
    broker: Broker = Broker()
    ledger: Ledger = Ledger()
    complete: Complete = Complete()
    worker: Worker = Worker()
    models: Models = Models()
    destination: tuple[Destination, ...] = ()
    rank: Rank = Rank()
    web: Web = Web()

    @field_validator("destination")
    @classmethod
    def _unique_names(cls, value: tuple[Destination, ...]) -> tuple[Destination, ...]:
        names = [d.name for d in value]
        if len(set(names)) != len(names):
            raise ValueError("two destinations have the same name")
        return value
