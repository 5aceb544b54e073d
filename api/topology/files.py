"""A topology's file, from bytes to the typed document: YAML as people write it, or JSON, which is YAML as well.

All that is wrong is told at once, with its line.
"""

import hashlib

import msgspec
import yaml
from msgspec import Struct

from api.declared import nodes
from api.declared.nodes import Form, Unreadable
from api.declared.values import Converter, Unfit
from gigawatch.findings import Findings, Path
from gigawatch.topology import checks
from gigawatch.topology.checks import Checked
from gigawatch.topology.document import Site, Topology

FORM = Form(
    what="a topology",
    begin="Begin with `sites:` and a site's name below.",
    shorter="Use ranges, or give each site a file.",
    page="docs/topology.md",
)
STAND_INS = {"role": "other"}


class Read(Struct, frozen=True, kw_only=True):
    """A file that has no errors."""

    topology: Topology
    checked: Checked
    sha256: str


def read(body: bytes) -> Read:
    """A file's topology.

    Raises:
        Unfit: it has errors, all of which it names.
    """
    topology, checked = examine(body)
    if topology is None or checked.errors:
        raise Unfit(checked.findings, FORM)
    return Read(topology=topology, checked=checked, sha256=hashlib.sha256(body).hexdigest())


def examine(body: bytes) -> tuple[Topology | None, Checked]:
    """What a file says, as far as it says it, and all that is wrong with it; no topology: it is no YAML at all."""
    findings = Findings()
    try:
        root = nodes.read(body, FORM)
    except Unreadable as error:
        line: dict[Path, int] = {} if error.line is None else {(): error.line}
        findings.error((), error.problem, error.remedy)
        return None, Checked(sites=[], findings=findings.listed(line))
    convert = Converter(findings, FORM, STAND_INS)
    topology = convert.whole(root, Topology)
    if topology is None:
        return None, Checked(sites=[], findings=findings.listed(convert.lines))
    return topology, checks.check(topology, findings, convert.lines)


def check_in_force(name: str, site: Site) -> Checked:
    """A site of the store, checked anew."""
    return checks.check(Topology(sites={name: site}))


def written(topology: Topology) -> str:
    """A topology as YAML; read() gives the same again."""
    return yaml.safe_dump(msgspec.to_builtins(topology), sort_keys=False, allow_unicode=True, width=120)
