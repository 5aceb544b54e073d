"""Kubernetes' pods, from a gRPC server on a socket like the kubelet's and an HTTP server like the API server."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from collector.assignments.discovery import Discovery
from collector.assignments.kubernetes import LIST, Pods
from gigawatch.errors import GigawatchError
from gigawatch.records import Gpu, MigInstance
from gigawatch.settings import Agent, Settings

MIG = MigInstance(uuid="MIG-7", gpu_instance_id=1)
GPUS = tuple(
    Gpu(uuid=f"GPU-{index}", index=index, model="H100", mig_instances=(MIG,) if index == 2 else ())
    for index in range(4)
)
PIDS = {gpu.uuid: frozenset[int]() for gpu in GPUS}


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


def field(number: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def pod(namespace: str, name: str, resource: str, *devices: str) -> bytes:
    given = field(1, resource) + b"".join(field(2, device) for device in devices)
    # Beside what is asked for, what else a container's message has: cpu_ids, packed, and a topology with numbers.
    given += field(3, field(1, varint(1 << 3) + varint(70_000)))
    container = field(1, "main") + field(2, given) + field(3, b"\x01\x02")
    return field(1, field(1, name) + field(2, namespace) + field(3, field(1, "sidecar")) + field(3, container))


class Kubelet:
    def __init__(self, socket: Path) -> None:
        self.answer = b""
        self.socket = socket
        handler = grpc.unary_unary_rpc_method_handler(lambda request, context: self.answer)
        service, method = LIST.strip("/").split("/")
        self.server = grpc.server(ThreadPoolExecutor(1))
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self.server.add_insecure_port(f"unix:{socket}")
        self.server.start()


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    kubelet = Kubelet(tmp_path / "kubelet.sock")
    yield kubelet
    kubelet.server.stop(None)


class Api(BaseHTTPRequestHandler):
    asked: list[tuple[str, dict[str, str]]]
    status = 200
    answer: Any

    def do_GET(self) -> None:
        self.asked.append((self.path, dict(self.headers)))
        body = json.dumps(self.answer).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[tuple[type[Api], str]]:
    Api.asked, Api.status = [], 200
    Api.answer = {"kind": "PartialObjectMetadataList", "items": []}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield Api, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def found(pods: Pods) -> dict[str, list[str]]:
    return {uuid: sorted(it.deployment for it in its) for uuid, its in pods.find(GPUS, PIDS).items()}


@pytest.mark.parametrize(
    ("name", "deployment"),
    [
        ("llama-3-7d9f8b6c5d-x2x4z", "llama-3"),
        ("vllm-decode-0", "vllm-decode"),
        ("lws-0-3", "lws"),
        ("agent-b5n7q", "agent"),
        ("plain", "plain"),
        ("llama-70b", "llama-70b"),
    ],
)
def test_without_a_token_a_deployment_is_named_after_its_pods(
    kubelet: Kubelet, tmp_path: Path, name: str, deployment: str
) -> None:
    kubelet.answer = pod("prod", name, "nvidia.com/gpu", "GPU-0", "GPU-3") + pod("prod", "web-0", "vendor/nic", "GPU-1")
    assert found(Pods(kubelet.socket, service_account=tmp_path)) == {
        "GPU-0": [f"prod/{deployment}"], "GPU-3": [f"prod/{deployment}"]
    }  # fmt: skip


def test_mig_devices_and_gpus_shared_by_time_are_their_physical_gpus(kubelet: Kubelet, tmp_path: Path) -> None:
    kubelet.answer = (
        pod("a", "x-0", "nvidia.com/mig-1g.10gb", "MIG-7")
        + pod("a", "y-0", "nvidia.com/gpu", "GPU-1::0")
        + pod("b", "z-0", "nvidia.com/gpu.shared", "GPU-1::1")
        + pod("b", "i-0", "nvidia.com/gpu", "3")
        + pod("b", "old-0", "nvidia.com/gpu", "GPU-that-is-gone")
    )
    assert found(Pods(kubelet.socket, service_account=tmp_path)) == {
        "GPU-1": ["a/y", "b/z"], "GPU-2": ["a/x"], "GPU-3": ["b/i"],
    }  # fmt: skip


def test_gpus_as_gke_names_them(kubelet: Kubelet, tmp_path: Path) -> None:
    kubelet.answer = b"".join(
        pod("a", f"{name}-0", "nvidia.com/gpu", device)
        for name, device in (
            ("whole", "nvidia0"), ("timed", "nvidia1/vgpu3"), ("mig", "nvidia2/gi4"), ("both", "nvidia3/gi0/vgpu1"),
            ("gone", "nvidia9"),
        )
    )  # fmt: skip
    assert found(Pods(kubelet.socket, service_account=tmp_path)) == {
        "GPU-0": ["a/whole"], "GPU-1": ["a/timed"], "GPU-2": ["a/mig"], "GPU-3": ["a/both"],
    }  # fmt: skip


def test_labels_name_a_deployment_where_the_api_server_is_asked(
    kubelet: Kubelet, api: tuple[type[Api], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, url = api
    monkeypatch.setenv("NODE_NAME", "gpu-node-1")
    (tmp_path / "token").write_text("secret\n", encoding="ascii")
    names = ["app.kubernetes.io/instance", "app.kubernetes.io/name", "app"]
    labels = [dict.fromkeys(names[index:], f"by-{index}") for index in range(4)]
    for index, label in enumerate(labels):
        for place, (key, _) in enumerate(label.items(), index):
            label[key] = f"by-{place}"
        kubelet.answer += pod("prod", f"p-{index}", "nvidia.com/gpu", f"GPU-{index}")
    handler.answer["items"] = [
        {"metadata": {"name": f"p-{index}", "namespace": "prod", "labels": label, "uid": "u"}}
        for index, label in enumerate(labels[:3])
    ] + [{"metadata": {"name": "p-0", "namespace": "other", "labels": {"app": "wrong"}}}]
    assert found(Pods(kubelet.socket, url, tmp_path)) == {
        "GPU-0": ["prod/by-0"], "GPU-1": ["prod/by-1"], "GPU-2": ["prod/by-2"], "GPU-3": ["prod/p"],
    }  # fmt: skip
    ((path, headers),) = handler.asked
    assert path == "/api/v1/pods?fieldSelector=spec.nodeName%3Dgpu-node-1"
    assert headers["Authorization"] == "Bearer secret"
    assert "PartialObjectMetadataList" in headers["Accept"]


@pytest.mark.parametrize(("status", "answer"), [(403, {"items": []}), (200, ["nonsense"]), (200, {"items": [{}]})])
def test_an_api_server_that_does_not_say_is_told_and_no_other_name_taken(
    kubelet: Kubelet, api: tuple[type[Api], str], tmp_path: Path, status: int, answer: object
) -> None:
    handler, url = api
    handler.status, handler.answer = status, answer
    (tmp_path / "token").write_text("secret", encoding="ascii")
    kubelet.answer = pod("prod", "p-0", "nvidia.com/gpu", "GPU-0")
    with pytest.raises(GigawatchError, match="does not list this node's pods") as caught:
        found(Pods(kubelet.socket, url, tmp_path))
    assert "secret" not in caught.value.message


def test_a_kubelet_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(GigawatchError, match=r"does not answer at .*no\.sock") as caught:
        found(Pods(tmp_path / "no.sock", service_account=tmp_path))
    assert "discovery.yaml" in caught.value.remedy


@pytest.mark.parametrize(
    "answer",
    [
        pod("prod", "p-0", "nvidia.com/gpu", "GPU-0")[:-3],
        b"\x0b",
        b"\xff",
        field(1, field(1, b"\xff\xfe")),
        field(1, field(3, field(2, b"\x0a\x7fx"))),
    ],
)
def test_an_answer_that_is_none_is_told(kubelet: Kubelet, tmp_path: Path, answer: bytes) -> None:
    kubelet.answer = answer
    with pytest.raises(GigawatchError, match="cannot be read"):
        found(Pods(kubelet.socket, service_account=tmp_path))


def test_discovery_takes_pods_before_jobs() -> None:
    settings = Settings(agent=Agent(discover=("slurm", "kubernetes")))
    found, problems = Discovery(settings).find(GPUS, PIDS)
    assert list(problems) == ["kubernetes"], "what fails ends the search: jobs were not asked"
    assert found == {}
