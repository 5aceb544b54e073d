"""What `gigawatch alert apply` brings into force, as it is declared: docs/alerts.md explains each key."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from api.alerts.rule import By
from gigawatch.alerts.notification import Severity
from gigawatch.records import Name

Duration = Annotated[str, Meta(pattern=r"^([0-9]+(s|m|h|d))+$", max_length=20)]
"""As `90s`, `5m`, `1h30m`, `7d`."""
MatcherText = Annotated[str, Meta(min_length=3, max_length=600)]
"""As gigawatch.alerts.matchers.parse() takes it."""
RuleName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
ThresholdName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


class ThresholdDeclared(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A number that a rule of one's own compares with."""

    value: float
    unit: Annotated[str, Meta(max_length=40)] = ""
    about: Annotated[str, Meta(max_length=300)] = ""


class OverrideDeclared(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where thresholds are others: at one site, in one rack, of one GPU model, …"""

    where: Annotated[dict[By, Name], Meta(min_length=1)]
    set: Annotated[dict[ThresholdName, float], Meta(min_length=1)]


class RuleDeclared(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename={"for_": "for"}
):
    """Of a shipped rule what is to be otherwise; of a rule of one's own all of it: sql, labels, about and summary."""

    enabled: bool = True
    about: Annotated[str, Meta(max_length=500)] | None = None
    summary: Annotated[str, Meta(max_length=500)] | None = None
    sql: Annotated[str, Meta(min_length=8, max_length=50_000)] | None = None
    labels: Annotated[tuple[Name, ...], Meta(max_length=20)] = ()
    severity: Severity | None = None
    unit: Annotated[str, Meta(max_length=40)] | None = None
    for_: Duration | None = None
    keep_firing_for: Duration | None = None
    interval: Duration | None = None
    group_by: tuple[Name, ...] | None = None
    events: tuple[Name, ...] | None = None
    inhibits: tuple[RuleName, ...] | None = None
    equal: tuple[Name, ...] | None = None
    runbook: Annotated[str, Meta(max_length=1_000)] | None = None
    thresholds: dict[ThresholdName, float | ThresholdDeclared] = {}
    overrides: tuple[OverrideDeclared, ...] = ()


class Target(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whom alerts are sent to."""

    kind: Literal["alertmanager", "alertmanager_api", "slack", "teams", "pagerduty", "opsgenie", "template"]
    """What it speaks: Alertmanager's webhook of version 4; /api/v2/alerts of an Alertmanager; Slack's incoming webhook;
    Teams' workflow; PagerDuty's Events v2; Opsgenie's alerts; or a Jinja template of one's own."""
    url: Annotated[str, Meta(max_length=2_000)] | None = None
    """Where it is sent; pagerduty and opsgenie have a usual one."""
    url_file: Annotated[str, Meta(max_length=1_000)] | None = None
    """File on the server, in the folder alerts.secrets_dir, that holds the URL on its only line, where the URL is a
    secret."""
    secret_file: Annotated[str, Meta(max_length=1_000)] | None = None
    """File there that holds, of pagerduty the routing key, of opsgenie the API key, else the key that signs
    bodies by HMAC-SHA-256."""
    bearer_file: Annotated[str, Meta(max_length=1_000)] | None = None
    """File there that holds a token for the header Authorization."""
    ca_file: Annotated[str, Meta(max_length=1_000)] | None = None
    """File there with certificates to trust for https, where the system's are not enough."""
    template: Annotated[str, Meta(max_length=50_000)] | None = None
    """Of kind template, the body, in Jinja."""
    content_type: Annotated[str, Meta(pattern="^[!-~]+/[ -~]+$", max_length=100)] = "application/json"
    """Of kind template, its type."""


class Route(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename={"continue_": "continue"}
):
    """Which alerts go where.

    The first of `routes` whose matchers hold takes an alert, and further ones where it says `continue`. What a route
    leaves out it has from the one above.
    """

    target: Name | None = None
    matchers: tuple[MatcherText, ...] = ()
    group_by: tuple[Name, ...] | None = None
    group_wait: Duration | None = None
    group_interval: Duration | None = None
    repeat_interval: Duration | None = None
    continue_: bool = False
    routes: tuple["Route", ...] = ()


class Budget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a tenant, deployment or site may use in a calendar month. One of the three limits, or several."""

    tenant: Name | None = None
    deployment: Name | None = None
    site: Name | None = None
    time_zone: Annotated[str, Meta(max_length=100)] = "UTC"
    """Whose months count: its name in the IANA database."""
    energy_mwh: Annotated[float, Meta(gt=0, le=2_500_000)] | None = None
    cost: Annotated[float, Meta(gt=0, le=1e15)] | None = None
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] | None = None
    co2e_t: Annotated[float, Meta(gt=0, le=1e9)] | None = None


class Configuration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """All of it."""

    targets: dict[Name, Target] = {}
    route: Route | None = None
    """The first route: its target hears of what no other takes. Without it nobody is told."""
    rules: dict[RuleName, RuleDeclared] = {}
    tenants: dict[Name, tuple[Name, ...]] = {}
    """By tenant, its deployments; names may end in *."""
    budgets: dict[Name, Budget] = {}
