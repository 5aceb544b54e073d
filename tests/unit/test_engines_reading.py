"""Expositions of every engine are read right: what is repeated counts once, what is split is added up."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from collector.engines import catalogue
from collector.engines.address import complete
from collector.engines.exposition import parse
from collector.engines.reading import ABOVE_ALL_US, Reading, read, recognise
from collector.exposition import HEADERS, Answer, Exposition
from gigawatch.errors import ExitCode, GigawatchError

EXPOSITIONS = Path(__file__).parents[1] / "engines"
RECORDED = Path(__file__).parents[3] / "shared/data/sglang_llama31_8b.prom"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
LLAMA, QWEN = "meta-llama/Llama-3.1-70B-Instruct", "Qwen/Qwen3-32B"
NEMOTRON, NIM_LLAMA = "nvidia/Nemotron-3-Nano", "meta/llama-3.1-8b-instruct"

Expected = dict[str, int | dict[int, int] | None]
# By file and model: counts, gauges (the cache in per mille) and, of latencies, how many lie in each bucket, by µs.
EXPECTED: dict[str, dict[str | None, Expected]] = {
    "vllm": {
        LLAMA: {
            "prompt_tokens": 9_128_902, "cached_tokens": 11_000, "generated_tokens": 9_557_572,
            "requests_finished": 123, "running_requests": 78, "waiting_requests": 2, "kv_cache_use": 501,
            "time_to_first_token": {1_000: 1, 250_000: 92, 2_500_000: 25, ABOVE_ALL_US: 5},
            "inter_token_latency": {25_000: 7_000_000, ABOVE_ALL_US: 557_452},
            "end_to_end_latency": {300_000: 0, ABOVE_ALL_US: 120},
        }
    },
    "vllm_v0": {
        "facebook/opt-125m": {
            "prompt_tokens": 1_234, "cached_tokens": None, "generated_tokens": 567, "requests_finished": 8,
            "running_requests": 2, "waiting_requests": 0, "kv_cache_use": 62,
            "time_to_first_token": {1_000: 3, ABOVE_ALL_US: 5}, "inter_token_latency": {10_000: 500, ABOVE_ALL_US: 59},
            "end_to_end_latency": None,
        }
    },
    "vllm_triton": {
        "vllm_model": {
            "prompt_tokens": 10, "generated_tokens": 16, "requests_finished": None, "running_requests": None,
            "time_to_first_token": {1_000: 0, ABOVE_ALL_US: 1}, "inter_token_latency": {10_000: 14, ABOVE_ALL_US: 1},
            "end_to_end_latency": {1_000_000: 1, ABOVE_ALL_US: 0},
        },
        "second": {"prompt_tokens": 3, "generated_tokens": 4, "time_to_first_token": None},
    },
    "sglang": {
        QWEN: {
            "prompt_tokens": 140_000, "cached_tokens": 40_000, "generated_tokens": 52_234, "requests_finished": 77,
            "running_requests": 17, "waiting_requests": 3, "kv_cache_use": 610,
            "time_to_first_token": {100_000: 61, ABOVE_ALL_US: 16},
            "inter_token_latency": {2_000: 0, 25_000: 39_000, ABOVE_ALL_US: 923},
            "end_to_end_latency": {10_000_000: 50, ABOVE_ALL_US: 20},
        }
    },
    "trtllm": {
        NEMOTRON: {
            "prompt_tokens": 4_096, "cached_tokens": 512, "generated_tokens": 2_048, "requests_finished": 15,
            "running_requests": 6, "waiting_requests": 1, "kv_cache_use": 31,
            "time_to_first_token": {20_000: 9, ABOVE_ALL_US: 6}, "inter_token_latency": {10_000: 15, ABOVE_ALL_US: 0},
            "end_to_end_latency": {300_000: 1, ABOVE_ALL_US: 14},
        }
    },
    "triton": {
        "tensorrt_llm": {
            "prompt_tokens": 5_678, "cached_tokens": None, "generated_tokens": 1_234, "requests_finished": 9,
            "running_requests": 7, "waiting_requests": 1, "kv_cache_use": 488,
            "time_to_first_token": {100_000: 6, 500_000: 3, ABOVE_ALL_US: 0}, "inter_token_latency": None,
            "end_to_end_latency": None,
        },
        "preprocessing": {"requests_finished": 9, "generated_tokens": None, "running_requests": None},
    },
    "nim": {
        NIM_LLAMA: {
            "prompt_tokens": 321, "cached_tokens": None, "generated_tokens": 654, "requests_finished": 3,
            "running_requests": 4, "waiting_requests": 0, "kv_cache_use": 125,
            "time_to_first_token": {40_000: 2, ABOVE_ALL_US: 1}, "inter_token_latency": {10_000: 600, ABOVE_ALL_US: 51},
            "end_to_end_latency": {1_000_000: 1, ABOVE_ALL_US: 2},
        }
    },
    "dynamo": {
        "Qwen/Qwen3-0.6B": {
            "prompt_tokens": 8_800, "cached_tokens": 100, "generated_tokens": 5_000, "requests_finished": 34,
            "running_requests": 3, "waiting_requests": 1, "kv_cache_use": None,
            "time_to_first_token": {0: 0, 2_200: 20, ABOVE_ALL_US: 14},
            "inter_token_latency": {1_900: 4_000, ABOVE_ALL_US: 966},
            "end_to_end_latency": {1_000_000: 33, ABOVE_ALL_US: 1},
        },
        QWEN: {"generated_tokens": 70_000, "running_requests": 9, "waiting_requests": None, "prompt_tokens": None},
    },
    "tgi": {
        None: {
            "prompt_tokens": 6_000, "cached_tokens": None, "generated_tokens": 2_400, "requests_finished": 30,
            "running_requests": 5, "waiting_requests": 2, "kv_cache_use": None, "time_to_first_token": None,
            "inter_token_latency": {30_000: 25, ABOVE_ALL_US: 5},
            "end_to_end_latency": {4_500_000: 28, ABOVE_ALL_US: 2},
        }
    },
    "llamacpp": {
        None: {
            "prompt_tokens": 1_500, "cached_tokens": None, "generated_tokens": 2_500, "requests_finished": None,
            "running_requests": 1, "waiting_requests": 0, "kv_cache_use": 55, "time_to_first_token": None,
            "inter_token_latency": None, "end_to_end_latency": None,
        }
    },
    "llamacpp_2026": {
        None: {
            "prompt_tokens": 7_915_720, "cached_tokens": 87_719_700, "generated_tokens": 135_300,
            "running_requests": 4, "waiting_requests": 2, "kv_cache_use": None,
        }
    },
    "ollama": {
        "gemma3:27b": {
            "prompt_tokens": 700, "cached_tokens": None, "generated_tokens": 1_400, "requests_finished": 7,
            "running_requests": None, "waiting_requests": None, "kv_cache_use": None, "time_to_first_token": None,
            "inter_token_latency": None, "end_to_end_latency": {5_000_000: 3, ABOVE_ALL_US: 4},
        }
    },
    "ollama_proxy": {
        "llama3.2": {
            "prompt_tokens": 70, "generated_tokens": 140, "requests_finished": 2,
            "inter_token_latency": {100_000: 2, ABOVE_ALL_US: 0},
            "end_to_end_latency": {10_000_000: 1, ABOVE_ALL_US: 1},
        }
    },
    "ollama_proxy_2026": {
        "llama3.2:latest": {
            "prompt_tokens": 110, "generated_tokens": 170, "requests_finished": 5,
            "time_to_first_token": {500_000: 2, ABOVE_ALL_US: 1}, "inter_token_latency": {25_000: 3, ABOVE_ALL_US: 1},
            "end_to_end_latency": {10_000_000: 3, ABOVE_ALL_US: 2},
        }
    },
}  # fmt: skip

# By file: the same, of the time to first token those up to 7.5 s, those above all, and all of them.
RECORDINGS: dict[Path, dict[str, object]] = {
    EXPOSITIONS / "sglang_old.prom": {
        "prompt_tokens": 1_500_000, "generated_tokens": 2_500_000, "running_requests": 16, "waiting_requests": 28,
        "kv_cache_use": 500, "time_to_first_token": (2, 8, 40), "inter_token_latency": 2_400_000,
    },
    RECORDED: {
        "prompt_tokens": 8_128_902, "generated_tokens": 7_557_572, "running_requests": 162, "waiting_requests": 2_826,
        "kv_cache_use": 280, "time_to_first_token": (627, 8_495, 11_008), "inter_token_latency": 7_400_757,
    },
}  # fmt: skip
if not RECORDED.exists():
    del RECORDINGS[RECORDED]


def exposition(text: str, content_type: str = TEXT) -> Exposition:
    return parse("http://engine/metrics", Answer(text, content_type, 0.0))


def said(reading: Reading, model: str | None, figure: str) -> int | dict[int, int] | None:
    """What a reading says of a figure; None where it says nothing."""
    if figure in catalogue.GAUGES:
        return reading.gauges.get(model, {}).get(figure)
    found: dict[int, int] = {}
    for series, count in reading.counters.items():
        if series.figure == figure and reading.models[series] == model:
            found[series.bound_us] = found.get(series.bound_us, 0) + count
    if not found:
        return None
    return found if figure in catalogue.LATENCIES else found[0]


def test_there_is_an_exposition_of_every_engine() -> None:
    named = {path.stem.partition("_")[0] for path in EXPOSITIONS.glob("*.prom")}
    assert named == set(catalogue.engines())
    assert {path.stem for path in EXPOSITIONS.glob("*.prom")} == {*EXPECTED, "sglang_old"}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_engine_is_recognised_and_read(name: str) -> None:
    text = (EXPOSITIONS / f"{name}.prom").read_text(encoding="utf-8")
    engine = recognise("http://engine/metrics", exposition(text))
    assert engine.name == name.partition("_")[0]
    reading = read(exposition(text), engine)
    for model, figures in EXPECTED[name].items():
        for figure, value in figures.items():
            assert said(reading, model, figure) == value, (model, figure)
    assert not reading.unknown_labels


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_lines_that_do_not_matter_need_not_be_parsed(name: str) -> None:
    text = (EXPOSITIONS / f"{name}.prom").read_text(encoding="utf-8")
    engine = catalogue.named(name.partition("_")[0])
    answer = Answer(text + 'other_metric{a="b"} 1\n', TEXT, 0.0)
    partly = parse("http://engine/metrics", answer, engine.metrics())
    assert "other_metric" not in partly.samples
    assert read(partly, engine) == read(exposition(text), engine)


@pytest.mark.parametrize(
    "line",
    [' vllm:generation_tokens_total{model_name="m"} 7', '\t{"vllm:generation_tokens_total", model_name="m"} 7',
     '{ "vllm:generation_tokens_total",model_name="m"} 7e0'],
)  # fmt: skip
def test_a_name_is_found_wherever_the_format_lets_it_stand(line: str) -> None:
    engine = catalogue.named("vllm")
    partly = parse("http://engine/metrics", Answer(line + "\n", TEXT, 0.0), engine.metrics())
    assert said(read(partly, engine), "m", "generated_tokens") == 7


def test_models_of_several_llama_servers_at_one_address_are_told_apart() -> None:
    text = 'llamacpp:tokens_predicted_total{model="a"} 5\nllamacpp:tokens_predicted_total{model="b"} 7\n'
    reading = read(exposition(text), catalogue.named("llamacpp"))
    assert (said(reading, "a", "generated_tokens"), said(reading, "b", "generated_tokens")) == (5, 7)
    assert not reading.unknown_labels


def test_blocks_of_a_cache_are_not_taken_for_tokens() -> None:
    """vLLM 0.8 counted blocks under the name under which 0.9 counted tokens."""
    text = (
        "# HELP vllm:gpu_prefix_cache_hits_total GPU prefix cache hits, in terms of number of cached blocks.\n"
        'vllm:gpu_prefix_cache_hits_total{model_name="m"} 625\n'
        'vllm:prompt_tokens_total{model_name="m"} 20000\n'
    )
    reading = read(exposition(text), catalogue.named("vllm"))
    assert (said(reading, "m", "prompt_tokens"), said(reading, "m", "cached_tokens")) == (20_000, None)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_sglang_of_before_realtime_tokens(path: Path) -> None:
    """Ours always; and what SGLang served under load, where that recording is."""
    expected = RECORDINGS[path]
    whole = exposition(path.read_text(encoding="utf-8"))
    engine = recognise("http://engine/metrics", whole)
    reading = read(whole, engine)
    model = "meta-llama/Llama-3.1-8B-Instruct"
    assert engine.name == "sglang"
    assert reading.sources["generated_tokens"].at_end
    for figure in ("prompt_tokens", "generated_tokens", "running_requests", "waiting_requests", "kv_cache_use"):
        assert said(reading, model, figure) == expected[figure]
    first, between = said(reading, model, "time_to_first_token"), said(reading, model, "inter_token_latency")
    assert isinstance(first, dict)
    assert isinstance(between, dict)
    assert (first[7_500_000], first[ABOVE_ALL_US], sum(first.values())) == expected["time_to_first_token"]
    assert sum(between.values()) == expected["inter_token_latency"]


def test_when_the_process_started() -> None:
    text = (EXPOSITIONS / "vllm.prom").read_text(encoding="utf-8")
    assert read(exposition(text), catalogue.named("vllm")).started_ms == 1_790_000_000_250
    assert read(exposition(""), catalogue.named("vllm")).started_ms is None


def test_openmetrics_is_read_too_and_created_is_no_count() -> None:
    text = (
        "# TYPE vllm:generation_tokens counter\n"
        'vllm:generation_tokens_total{model_name="m",engine="0"} 7\n'
        'vllm:generation_tokens_created{model_name="m",engine="0"} 1.79e9\n'
        "# EOF\n"
    )
    reading = read(exposition(text, "application/openmetrics-text; version=1.0.0"), catalogue.named("vllm"))
    assert said(reading, "m", "generated_tokens") == 7


@pytest.mark.parametrize(
    "accepted", [HEADERS["Accept"], "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8"]
)
def test_what_prometheus_client_serves_is_read(accepted: str) -> None:
    """vLLM, SGLang, NIM and TensorRT-LLM serve by this library: names, escapes and _created are its own."""
    generate, content_type = choose_encoder(accepted)
    registry = CollectorRegistry()
    model = 'a "model" with \\ and \n in it'
    generated = Counter("vllm:generation_tokens", "Tokens", ["model_name", "engine"], registry=registry)
    generated.labels(model, "0").inc(12_345_678)
    generated.labels(model, "1").inc(2)
    Gauge("vllm:num_requests_running", "Requests", ["model_name"], registry=registry).labels(model).set(3)
    first = Histogram("vllm:time_to_first_token_seconds", "s", ["model_name"], buckets=(0.25, 2.5), registry=registry)
    for seconds in (0.1, 0.2, 1, 9):
        first.labels(model).observe(seconds)
    found = exposition(generate(registry).decode(), content_type)
    reading = read(found, recognise("http://engine/metrics", found))
    assert said(reading, model, "generated_tokens") == 12_345_680
    assert said(reading, model, "running_requests") == 3
    assert said(reading, model, "time_to_first_token") == {250_000: 2, 2_500_000: 1, ABOVE_ALL_US: 1}


def test_native_histograms_are_brought_to_buckets() -> None:
    # Schema 0: buckets end at powers of two. 2 up to 1 s, 3 up to 2 s, none up to 4 s, 1 up to 8 s; 4 at zero.
    text = (
        "# TYPE vllm:time_to_first_token_seconds histogram\n"
        'vllm:time_to_first_token_seconds{model_name="m"} {count:10,sum:9.5,schema:0,zero_threshold:0.001,'
        "zero_count:4,positive_spans:[0:2,1:1],positive_deltas:[2,1,-2]}\n# EOF\n"
    )
    reading = read(exposition(text, "application/openmetrics-text; version=1.0.0"), catalogue.named("vllm"))
    expected = {1_000: 4, 1_000_000: 2, 2_000_000: 3, 8_000_000: 1}
    assert said(reading, "m", "time_to_first_token") == expected


def test_finer_native_histograms_are_made_coarser() -> None:
    # Schema 4 has 16 buckets a doubling, of which two make one of ours: the 15th and 16th end at 2 ** (15/16) and 2 s.
    text = (
        "# TYPE vllm:time_to_first_token_seconds histogram\n"
        'vllm:time_to_first_token_seconds{model_name="m"} {count:10,sum:9.5,schema:4,zero_threshold:0,'
        "zero_count:0,positive_spans:[15:2],positive_deltas:[3,4]}\n# EOF\n"
    )
    reading = read(exposition(text, "application/openmetrics-text; version=1.0.0"), catalogue.named("vllm"))
    assert said(reading, "m", "time_to_first_token") == {0: 0, 2_000_000: 10}


def test_values_that_no_count_can_have_are_left_out() -> None:
    lines = [f'vllm:generation_tokens_total{{engine="{number}"}} {value}'
             for number, value in enumerate(("NaN", "+Inf", "-5", "1e300", "12"))]  # fmt: skip
    reading = read(exposition("\n".join(lines)), catalogue.named("vllm"))
    assert list(reading.counters.values()) == [12]


def test_what_names_no_model_belongs_to_the_only_one() -> None:
    gauge = "vllm:num_requests_running 3\n"
    one = 'vllm:generation_tokens_total{model_name="a"} 1\n'
    two = 'vllm:generation_tokens_total{model_name="b"} 1\n'
    assert read(exposition(gauge + one), catalogue.named("vllm")).gauges == {"a": {"running_requests": 3}}
    assert read(exposition(gauge + one + two), catalogue.named("vllm")).gauges == {}


def test_labels_that_are_not_known_are_told() -> None:
    reading = read(exposition('vllm:generation_tokens_total{model_name="a",shard="1"} 1\n'), catalogue.named("vllm"))
    assert reading.unknown_labels == {"shard"}


@pytest.mark.parametrize(
    "text",
    [
        '{"detail": "Not Found"}',
        "hello",
        'vllm:generation_tokens_total{model_name="m"',
        'vllm:generation_tokens_total{model_name="m"} many',
        "# TYPE x bogus\nx 1\n",
        "\x00\x01\x02",
        "\x1b[2J" * 5_000,
    ],
)
def test_what_is_malformed_is_refused_with_its_beginning(text: str) -> None:
    with pytest.raises(GigawatchError, match="not in Prometheus' format") as caught:
        exposition(text)
    assert caught.value.exit_code == ExitCode.DATA
    assert repr(text[:60]) in caught.value.problem
    # A terminal would obey it.
    assert str(caught.value).replace("\n", "").isprintable()
    assert len(caught.value.problem) < 1_000


@pytest.mark.parametrize("content_type", [TEXT, "application/openmetrics-text; version=1.0.0"])
def test_a_line_without_end_costs_no_minutes(content_type: str) -> None:
    """What each label costs the parsers grows with the rest of its line."""
    labels = ",".join(f'l{number}=""' for number in range(400_000))
    began_s = time.process_time()
    with pytest.raises(GigawatchError, match="answers a line of more than 32768 characters") as caught:
        exposition(f"# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total{{{labels}}} 1\n", content_type)
    assert time.process_time() - began_s < 1
    assert caught.value.exit_code == ExitCode.DATA


texts = st.sampled_from([path.read_text(encoding="utf-8") for path in sorted(EXPOSITIONS.glob("*.prom"))])
strange = st.sampled_from(
    ["NaN", "-Inf", "+Inf", "1e999", "-1", '"', "{", "}", "\\", "\n", " ", "#", "le", "0x1", "\ud7ff", "é"]
)
NATIVE = (
    "# TYPE vllm:time_to_first_token_seconds histogram\n"
    "vllm:time_to_first_token_seconds {count:9,sum:9.5,schema:3,zero_threshold:0.1,"
    "zero_count:4,positive_spans:[0:2,1:1],positive_deltas:[2,1,-2]}\n# EOF\n"
)


@given(st.one_of(texts, st.just(NATIVE)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), strange), max_size=4))
def test_whatever_an_endpoint_says_is_read_or_refused(text: str, damage: list[tuple[float, int, str]]) -> None:
    kind = "application/openmetrics-text" if text == NATIVE else TEXT
    for place, length, replacement in damage:
        at = round(place * len(text))
        text = text[:at] + replacement + text[at + length :]
    try:
        found = exposition(text, kind)
    except GigawatchError:
        return
    for engine in catalogue.engines().values():
        reading = read(found, engine)
        assert all(0 <= count < 2**63 for count in reading.counters.values())
        assert all(0 <= series.bound_us <= ABOVE_ALL_US for series in reading.counters)


def test_bounds_that_no_latency_has_are_brought_within_or_left_out() -> None:
    lines = [f'tgi_request_duration_bucket{{le="{bound}"}} {number}'
             for number, bound in enumerate(("NaN", "-Inf", "1", "1e300", "+Inf", "x"), 1)]  # fmt: skip
    reading = read(exposition("\n".join(lines)), catalogue.named("tgi"))
    assert said(reading, None, "end_to_end_latency") == {0: 2, 1_000_000: 1, ABOVE_ALL_US: 2}


def test_metrics_of_something_else_are_named() -> None:
    text = "# TYPE node_cpu_seconds_total counter\nnode_cpu_seconds_total 1\n# TYPE up gauge\nup 1\n"
    with pytest.raises(GigawatchError, match=r"node_cpu_seconds, up") as caught:
        recognise("http://engine/metrics", exposition(text))
    assert caught.value.exit_code == ExitCode.DATA
    with pytest.raises(GigawatchError, match="nothing at all"):
        recognise("http://engine/metrics", exposition(""))


def test_two_engines_at_one_address_are_not_guessed_at() -> None:
    text = "llamacpp:tokens_predicted_total 1\ntgi_queue_size 1\n"
    with pytest.raises(GigawatchError, match="as much of") as caught:
        recognise("http://engine/metrics", exposition(text))
    assert "llamacpp" in caught.value.remedy
    assert "tgi" in caught.value.remedy


def test_addresses_as_people_write_them() -> None:
    assert complete("localhost:8000", "/metrics") == "http://localhost:8000/metrics"
    assert complete("https://h/", "/v1/metrics") == "https://h/v1/metrics"
    assert complete("http://h:1/v1/metrics", "/metrics") == "http://h:1/v1/metrics"


GOOD = """
title = "T"
versions = "1"
sources = ["https://example.org"]
path = "/metrics"
port = 8000
repeated_by = []
split_by = []
[figures]
generated_tokens = [{ metric = "t_tokens_total" }]
"""


@pytest.mark.parametrize(
    ("wrong", "right", "words"),
    [
        ("port = 8000", "port = 0", "$.port"),
        ("title =", "titel =", "titel"),
        ("versions = \"1\"\n", "", "versions"),
        ("generated_tokens =", "tokens =", "tokens"),
        ('metric = "t_tokens_total"', 'metric = "t tokens"', "$.figures.generated_tokens[0].metric"),
        ('metric = "t_tokens_total"', 'metric = "t", unit = "s"', "generated_tokens: t has unit s, and None is wanted"),
        ("generated_tokens = [{", "time_to_first_token = [{", "and s or ms is wanted"),
        ("generated_tokens = [{", 'kv_cache_use = [{ unit = "s",', "fraction or percent"),
        ("[figures]", "[figures", "cannot be used"),
    ],
)  # fmt: skip
def test_a_wrong_engine_file_is_refused_with_its_key(tmp_path: Path, wrong: str, right: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert catalogue.read(path).name == "mine"
    assert wrong in GOOD
    path.write_text(GOOD.replace(wrong, right), encoding="utf-8")
    with pytest.raises(GigawatchError) as caught:
        catalogue.read(path)
    assert caught.value.exit_code == ExitCode.CONFIGURATION
    assert str(path) in caught.value.problem
    assert words in caught.value.problem


def test_an_engine_that_is_not_known_is_refused_with_one_that_is() -> None:
    with pytest.raises(GigawatchError, match="'vlm'") as caught:
        catalogue.named("vlm")
    assert caught.value.remedy == "Did you mean 'vllm'?"


def test_no_label_is_both_repeated_and_split() -> None:
    for engine in catalogue.engines().values():
        labels = [*engine.repeated_by, *engine.split_by, *engine.model_labels]
        assert len(set(labels)) == len(labels), engine.name
        for _, sources in engine.figures.each():
            for source in sources:
                assert set(source.labels) <= set(engine.split_by), (engine.name, source.metric)
