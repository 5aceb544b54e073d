"""GPUs of Kubernetes' pods: the kubelet says which devices each pod was given, the API server what the pods are.

The kubelet's answer is protobuf of three levels with a few texts: a reader of the wire format is shorter than what a
generator makes of its definition, and needs no generator.
"""

import os
import re
import socket
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import grpc
import msgspec
import urllib3
from msgspec import Struct

from collector.assignments.configured import by_any_uuid
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.records import Assignment, Gpu

KUBELET = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
LIST = "/v1.PodResourcesLister/List"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIME_LIMIT_S = 5.0
RESOURCES = re.compile(r"nvidia\.com/(gpu(\.shared)?|mig-.+)")
# GKE's device plugin has files of /dev, with a MIG instance or a share in time behind them.
GKE_DEVICE = re.compile(r"nvidia(\d+)(/.*)?")
NAMES = ("app.kubernetes.io/instance", "app.kubernetes.io/name", "app")
"""Labels that name what a pod is part of, the first that it has."""
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
LONGEST_NAME = 200
# Kubernetes makes its random parts of these letters, so that they form no words.
SUFFIX = re.compile(
    r"-[bcdfghjklmnpqrstvwxz2456789]{6,10}-[bcdfghjklmnpqrstvwxz2456789]{5}$"  # of a Deployment
    r"|-[bcdfghjklmnpqrstvwxz2456789]{5}$"  # of a DaemonSet or Job
    r"|(-\d+)+$"  # of a StatefulSet or LeaderWorkerSet
)


class Pod(Struct, frozen=True):
    """A pod, and the devices that its containers were given."""

    namespace: str
    name: str
    devices: frozenset[str]


class Metadata(Struct, frozen=True):
    """What the API server says of a pod."""

    name: str
    namespace: str
    labels: dict[str, str] = {}


class Item(Struct, frozen=True):
    """An entry of its list."""

    metadata: Metadata


class PodList(Struct, frozen=True):
    """Its list."""

    items: list[Item]


class Pods:
    """Finds the pods that GPUs are given to.

    Args:
        kubelet: its socket.
        api_url: of the API server; by default as Kubernetes tells its pods.
        service_account: folder with the token that the API server is asked with. Without it names of pods are taken.
    """

    def __init__(
        self, kubelet: Path = KUBELET, api_url: str | None = None, service_account: Path = SERVICE_ACCOUNT
    ) -> None:
        self._kubelet = kubelet
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        self._api_url = api_url or f"https://{f'[{host}]' if ':' in host else host}:{port}"
        self._token = service_account / "token"
        self._pool = urllib3.PoolManager(maxsize=1, retries=False, ca_certs=str(service_account / "ca.crt"))

    def find(self, gpus: Sequence[Gpu], pids: Mapping[str, frozenset[int]]) -> dict[str, set[Assignment]]:
        """What GPUs serve by the pods that they are given to.

        Raises:
            GigawatchError: the kubelet or the API server does not say.
        """
        uuids = {**{str(gpu.index): gpu.uuid for gpu in gpus}, **by_any_uuid(gpus)}
        pods = [pod for pod in self._pods() if pod.devices]
        names = self._names() if pods and self._token.exists() else {}
        found: dict[str, set[Assignment]] = defaultdict(set)
        for pod in pods:
            name = names.get((pod.namespace, pod.name)) or SUFFIX.sub("", pod.name)
            for device in pod.devices:
                # A GPU that is shared by time is given out as UUID::0, UUID::1 and so on.
                uuid = uuids.get(GKE_DEVICE.sub(r"\1", device.partition("::")[0]))
                if uuid is not None:
                    found[uuid].add(Assignment(deployment=f"{pod.namespace}/{name}"[:LONGEST_NAME]))
        return found

    def _pods(self) -> list[Pod]:
        with grpc.insecure_channel(f"unix:{self._kubelet}") as channel:
            try:
                answer = channel.unary_unary(LIST)(b"", timeout=TIME_LIMIT_S)
            except grpc.RpcError as error:
                raise GigawatchError(
                    f"The kubelet does not answer at {self._kubelet}: {error.details()}",
                    "Mount its folder into the agent's container, and let the agent be root, whose socket it is"
                    " (deploy/kubernetes/discovery.yaml).",
                    ExitCode.UNREACHABLE,
                ) from error
        try:
            return [_pod(value) for number, value in _fields(answer) if number == 1]
        except (ValueError, IndexError) as error:
            raise GigawatchError(
                f"The kubelet's answer at {self._kubelet} cannot be read: {error}",
                "It should serve v1.PodResourcesLister, of Kubernetes 1.20 and later.",
                ExitCode.DATA,
            ) from error

    def _names(self) -> dict[tuple[str, str], str]:
        """What this node's pods are part of, by namespace and name."""
        node = os.environ.get("NODE_NAME") or socket.gethostname()
        url = f"{self._api_url}/api/v1/pods?fieldSelector=spec.nodeName%3D{quote(node)}"
        try:
            answer = self._pool.request(
                "GET", url, timeout=TIME_LIMIT_S,
                headers={"Authorization": f"Bearer {self._token.read_text(encoding='ascii').strip()}",
                         "Accept": METADATA_ONLY},
            )  # fmt: skip
            if answer.status != 200:
                raise ValueError(f"it answers {answer.status}")
            pods = [item.metadata for item in msgspec.json.decode(answer.data, type=PodList).items]
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            raise GigawatchError(
                f"The API server does not list this node's pods at {url}: {error}",
                "Let the agent's service account list pods (deploy/kubernetes/discovery.yaml), or mount no token of it:"
                " then deployments are named after their pods.",
                ExitCode.UNREACHABLE,
            ) from error
        named = (((pod.namespace, pod.name), next(filter(None, map(pod.labels.get, NAMES)), None)) for pod in pods)
        return {pod: name for pod, name in named if name}


def _pod(message: bytes) -> Pod:
    """v1.PodResources: name = 1, namespace = 2, containers = 3; of a container devices = 2; of devices resource_name =
    1, device_ids = 2.
    """
    texts = {1: "", 2: ""}
    devices: set[str] = set()
    for number, value in _fields(message):
        if number in texts:
            texts[number] = value.decode()
        elif number == 3:
            for given in (value for number, value in _fields(value) if number == 2):
                fields = [(number, text.decode()) for number, text in _fields(given) if number in {1, 2}]
                if any(number == 1 and RESOURCES.fullmatch(text) for number, text in fields):
                    devices |= {text for number, text in fields if number == 2}
    return Pod(texts[2], texts[1], frozenset(devices))


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protobuf message that hold bytes, with their numbers.

    Raises:
        ValueError, IndexError: it is none.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(message, at)
                if at + length > len(message):
                    raise ValueError("it is cut off")
                yield key >> 3, message[at : at + length]
                at += length
            case 5:
                at += 4
            case other:
                raise ValueError(f"wire type {other} is not known")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            return value, at
