"""The estimate for GPUs: what is counted is what a step does, and waits make a GPU idle."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks import gpu_estimate
from benchmarks.gpu_estimate import (
    GPU,
    GPUS,
    LAUNCH,
    WAIT,
    Event,
    Recorder,
    added,
    busy_time,
    measure,
    overhead,
    play,
    table_of,
)
from captioner.model.search import LOOK_EVERY
from tests.support.pretended_gpu import DEVICE, PretendedGPU, pretended_gpu

SLOW = GPU(lower=1e12, float32=1e11, memory=1e9, shortest=1e-6, lstm_step=0.0)
VALUES = {
    "captions": {"max_length": 10},
    "image": {"size": 64},
    "decoder": {"attention": True, "width": 16, "heads": 2, "tied": True, "dropout": 0.5, "standardise": True},
    "train": {"label_smoothing": 0.1, "scheduled_sampling": 0.0, "clip": 1.0, "crop": 1.0},
    "finetune": {
        "unfreeze_from": "layer4",
        "samples": 2,
        "next_word": 0.0,
        "label_smoothing": 0.1,
        "scheduled_sampling": 0.0,
        "clip": 1.0,
        "crop": 0.6,
    },
}


def test_an_operation_takes_what_its_products_or_its_memory_take():
    assert busy_time(Event(0.0, flops=10**9), SLOW) == pytest.approx(1e-2)
    assert busy_time(Event(0.0, flops=10**9, lower=True), SLOW) == pytest.approx(1e-3)
    assert busy_time(Event(0.0, flops=10**9, bytes=10**8), SLOW) == pytest.approx(1e-1)
    assert busy_time(Event(0.0), SLOW) == SLOW.shortest


def test_a_gpu_is_busy_while_the_host_is_ahead_and_idle_after_a_wait():
    second = Event(0.0, bytes=10**9)
    total, busy = play([second] * 3, SLOW)
    assert (total, busy) == (pytest.approx(3 + LAUNCH), pytest.approx(3))
    thinking = Event(2.0, bytes=10**9)  # after 2 s of the host's own
    assert play([second, thinking], SLOW)[0] == pytest.approx(3 + 2 * LAUNCH)
    assert play([second, Event(0.0, waits=True), thinking], SLOW)[0] == pytest.approx(4 + 2 * LAUNCH + WAIT)


def test_the_host_launches_only_the_first_operation_of_a_graph():
    first, second = Event(0.0, bytes=10**9), Event(0.0, bytes=10**9, launched_by_gpu=True)
    assert play([first, second], SLOW)[0] == pytest.approx(2 + LAUNCH)
    with pretended_gpu(recorder := Recorder()):
        x, graph = torch.ones(3, device=DEVICE), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = (x + 1) * 2
        recorder.reset()
        graph.replay()
        replayed = recorder.events.copy()
        assert y.tolist() == [4, 4, 4]
    assert [event.launched_by_gpu for event in replayed] == [False, True]
    assert replayed[1].host == 0


def test_only_the_hosts_own_time_is_recorded(monkeypatch):
    clock = [0.0]

    def took(seconds):
        clock[0] += seconds

    monkeypatch.setattr(gpu_estimate.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(PretendedGPU, "run_on_host", lambda self, func, args, _: took(4.0) or func(*args))
    on_cpu = torch.ones(3)
    with pretended_gpu(recorder := Recorder()):
        x = torch.ones(3, device=DEVICE)
        recorder.reset()
        took(1.0)
        with recorder.pretending():
            took(10.0)
            with recorder.computing():
                took(20.0)
                torch.neg(on_cpu)
        with recorder.computing():
            took(30.0)
            with recorder.pretending():
                took(40.0)
        took(2.0)
        torch.neg(on_cpu)
        torch.neg(x)
    (event,) = recorder.events
    assert event.host == 1.0 + 2.0 + 4.0


def test_launches_are_kept_with_their_operations_and_bytes():
    with pretended_gpu(recorder := Recorder()):
        x, weight = torch.ones(3, 4, device=DEVICE), torch.ones(5, 4, device=DEVICE)
        recorder.reset()
        F.linear(x, weight).sum().item()
    product, total, wait = recorder.events
    assert product.flops == 2 * 3 * 4 * 5
    assert product.bytes == 4 * (3 * 4 + 4 * 5 + 3 * 5)
    assert (total.flops, total.bytes, total.waits, wait.waits) == (0, 4 * (3 * 5 + 1), False, True)
    assert min(event.host for event in recorder.events) > 0


def test_what_the_pretended_gpu_adds_leaves_what_the_cpu_takes():
    hosts = [1.0, 5.0, 2.0, 0.5]
    for taken in (8.0, 4.5, 1.0):
        assert sum(max(0.0, host - added(hosts, taken)) for host in hosts) == pytest.approx(taken)
    assert added(hosts, 9.0) == 0
    assert added([], 1.0) == 0


def test_the_overhead_compares_a_step_on_the_pretended_gpu_with_the_same_on_the_cpu(monkeypatch):
    monkeypatch.setattr(gpu_estimate, "STEPS", 1)
    compared = []
    monkeypatch.setattr(gpu_estimate, "added", lambda hosts, taken: compared.append((len(hosts), taken)) or 1.5)
    assert overhead(VALUES) == 1.5
    ((launches, taken),) = compared
    assert launches > 50
    assert taken > 0


@pytest.mark.parametrize(("kind", "most"), [("next word", 0), ("self-critical", 10 // LOOK_EVERY + 3)])
def test_a_step_is_counted(monkeypatch, kind, most):
    monkeypatch.setattr(gpu_estimate, "WORDS", 30)
    monkeypatch.setattr(gpu_estimate, "STEPS", 1)
    record = measure(kind, 2, VALUES, 0.0)
    assert record["waits"] <= most
    assert record["launches"] > 50
    assert min(record["TFLOP"], record["GB"], record["host ms"], record["LSTM time steps"]) > 0
    assert set(record["GPUs"]) == set(GPUS)
    assert all(0 < result["busy share"] < 1 for result in record["GPUs"].values())
    assert table_of({"steps": {kind: record}}).count("\n") == 2
