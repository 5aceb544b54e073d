"""Looks at the engines of the settings, and at which GPUs of this node serve what."""

from collector.assignments.configured import Configured, Serves, in_words
from collector.assignments.discovery import Discovery
from collector.client import utc_now
from collector.engines.address import endpoint_of
from collector.engines.probe import probe
from collector.finding import Finding
from collector.sources.nvml import DriverGone, GpuLost, Nvml
from gigawatch.errors import GigawatchError
from gigawatch.records import Gpu
from gigawatch.settings import Engine, Settings


def examine_assignments(settings: Settings, nvml: Nvml) -> list[Finding]:
    """Whether each engine can be read and what it runs on, and what else GPUs are given to."""
    try:
        gpus, pids = _look(nvml)
        configured, missing = Configured(settings).find(gpus)
        found, problems = Discovery(settings).find(gpus, {it: on for it, on in pids.items() if it not in configured})
    except GigawatchError as error:
        return [Finding("engines", "bad", error.problem, error.remedy)]
    serves = {**found, **configured}
    return [
        *(_engine(engine, gpus, serves) for engine in settings.engines),
        *(
            Finding(whose, "bad", f"names GPUs that this node does not have: {', '.join(map(str, names))}",
                    "Take indexes or UUIDs from `nvidia-smi -L`.")
            for whose, names in missing.items()
        ),
        *(
            Finding(f"discovery by {way}", "bad", problem.problem, problem.remedy)
            for way, problem in problems.items()
            if problem is not None
        ),
        _gpus(gpus, serves),
    ]  # fmt: skip


def _look(nvml: Nvml) -> tuple[tuple[Gpu, ...], dict[str, frozenset[int]]]:
    """The GPUs, and the processes on each; none where the driver cannot be used, which is told elsewhere."""
    pids = {}
    try:
        nvml.open()
        gpus = nvml.inventory()
        for device in nvml.devices:
            try:
                processes = nvml.health(device, utc_now()).processes
            except GpuLost:
                continue
            pids[device.uuid] = frozenset(it.pid for it in processes or ())
    except DriverGone:
        return (), {}
    finally:
        nvml.close()
    return gpus, pids


def _engine(engine: Engine, gpus: tuple[Gpu, ...], serves: Serves) -> Finding:
    endpoint = endpoint_of(engine)
    subject = f"engine {engine.deployment} at {endpoint}"
    try:
        report = probe(engine.url, engine.engine)
    except GigawatchError as error:
        return Finding(subject, "bad", error.problem, error.remedy)
    models = ", ".join(model.model or "a model that it does not name" for model in report.models)
    text = f"{report.title}, serves {models}"
    if not report.has_generated_tokens:
        return Finding(
            subject, "bad", f"{text}; counts no generated tokens",
            f"`gigawatch engines probe {engine.url}` says what it tells.",
        )  # fmt: skip
    on = [str(gpu.index) for gpu in gpus if any(it.endpoint == endpoint for it in serves.get(gpu.uuid, ()))]
    if not on:
        return Finding(
            subject, "note", f"{text}; on none of this node's GPUs that could be found",
            "Name its `gpus` in [[engines]], or, where it runs on other nodes, in [[assignments]] there"
            " (docs/engines.md, Which GPUs serve it).",
        )  # fmt: skip
    return Finding(subject, "good", f"{text}; on GPUs {', '.join(on)}, {'as set' if engine.gpus else 'as found'}")


def _gpus(gpus: tuple[Gpu, ...], serves: Serves) -> Finding:
    """What is assigned to nobody is easily overlooked."""
    text = "; ".join(f"GPU {gpu.index} serves {in_words(serves.get(gpu.uuid, ()))}" for gpu in gpus)
    return Finding("assignments", "good" if gpus else "note", text or "there is no GPU to serve anything")
