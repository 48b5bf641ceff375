"""Two processes train as one, on CPUs: the same curve, one that writes, and none that goes on alone.

Run as a script, by torch's launcher, it is one of two processes that compute `scenarios`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from captioner.base.distributed import (
    Mean,
    average,
    distributed,
    from_first,
    gather,
    processes,
    rank,
    seed_by_rank,
    share,
)
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json
from captioner.captions.vocabulary import EOS, PAD
from captioner.training.objectives import NextWord
from captioner.training.self_critical import SelfCritical
from tests.pipeline.faults import outputs
from tests.support.workspaces import ROOT
from tests.support.worlds import zipped
from tests.training.test_training import VOCABULARY, captioner_of, run, sets_of, toy, weights_of

pytestmark = pytest.mark.slow

LONG = {"train__epochs": 12, "train__batch": 4, "train__patience": 99}  # enough to be killed in
IMAGES = 17  # in batches of 4: the last is of one image, so that the second process has none


class Drawn(SelfCritical):
    """Self-critical training on captions that depend on the image's name only."""

    def __call__(self, captioner, batch):
        def sample(*_, samples, max_length, draw_words):
            tokens = torch.full((len(batch.images), samples, max_length), PAD)
            for at, image in enumerate(batch.images):
                generator = torch.Generator().manual_seed(int(image.removesuffix(".jpg")))
                for k in range(samples):
                    length = int(torch.randint(0, max_length, (), generator=generator))
                    tokens[at, k, :length] = torch.randint(4, len(VOCABULARY), (length,), generator=generator)
                    tokens[at, k, length] = EOS
            return tokens

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("captioner.training.self_critical.sample", sample)
            return super().__call__(captioner, batch)


def again():
    return {"sets": sets_of(*toy(train=IMAGES, dev=7)), "captioner": captioner_of(dropout=0.0)}


def scenarios(folder):
    """Do all that is compared, and keep it in `folder`; the same code for one process and for two."""
    os.environ["CAPTIONER_PRECISION"] = "float32"  # what bfloat16 rounds is no measure of anything
    os.chdir(folder)
    sets = sets_of(*toy(train=IMAGES, dev=7, captions=lambda number: 1 + number % 3))
    results = {"processes": processes(), "shares": gather([share(torch.arange(n)).tolist() for n in (5, 1)])}
    results["first"] = gather(from_first(lambda: os.getpid()))
    next_word = NextWord(label_smoothing=0.1)
    for name, objective in (
        ("words", next_word),
        ("rewards", Drawn(sets[0].references, VOCABULARY, samples=3, next_word=next_word, weight=0.3)),
    ):
        written = []
        captioner, records = run(
            name,
            sets=sets,
            captioner=captioner_of(dropout=0.0),
            objective=objective,
            on_epoch=lambda records, written=written: written.append(len(records)),
            start_is_candidate=True,
        )
        results[name] = gather({"records": records, "weights": weights_of(captioner), "written": written})

    run("again", epochs=2, **again())
    if rank() == 1:  # as on a machine of its own, which has no state
        os.mkdir("elsewhere")
        os.chdir("elsewhere")
    captioner, records = run("again", **again())
    os.chdir(folder)
    results["resumed"] = gather({"records": records, "weights": weights_of(captioner)})

    torch.manual_seed(5)
    seed_by_rank()
    results["random"] = gather(torch.rand(3).tolist())

    items, features = toy(train=IMAGES)
    features[3] = float("nan")
    try:
        run("not finite", sets=sets_of(items, features))
    except CaptionerError as error:
        results["not finite"] = gather(str(error).split(";")[0])

    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3, 1))]
    if rank() == 0:
        parameters[0].grad = torch.tensor([3.0, 6.0])
    else:
        parameters[1].grad = torch.ones(3, 1)
    means = average(parameters, Mean(torch.tensor(2.0 + rank()), 1 + rank()), Mean(torch.tensor(8.0), 1 - rank()))
    results["average"] = gather(([mean.item() for mean in means], [parameter.grad for parameter in parameters]))
    if rank() == 0:
        torch.save(results, "told.pt")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:  # notes what to put back
        patch.setenv("CAPTIONER_PRECISION", "")
        patch.chdir(folder)
        scenarios(folder)
    return torch.load(folder / "told.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, __file__, folder]
    subprocess.run(command, env=surroundings(), check=True)
    assert len(list((folder / ".resume").iterdir())) == 3  # of those that ended well
    return torch.load(folder / "told.pt")


def surroundings(**more):
    """Return the environment of processes that compute on one thread of the CPU."""
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "CAPTIONER_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        **more,
    }


@pytest.mark.parametrize("objective", ["words", "rewards"])
def test_two_processes_have_the_curve_and_the_weights_of_one(one, two, objective):
    (alone,), both = one[objective], two[objective]
    assert len(alone["records"]) == 5
    for mine, record in zip(both[0]["records"], alone["records"], strict=True):
        assert mine == pytest.approx(record, rel=1e-4, abs=2e-5)
    for each in (alone, *both):  # attention does not depend on the keys' bias, so that rounding alone moves it
        each["weights"]["decoder.key_value.bias"][:16] = 0
    for name, wanted in alone["weights"].items():
        torch.testing.assert_close(both[0]["weights"][name], wanted, rtol=1e-3, atol=2e-4)
        assert torch.equal(both[0]["weights"][name], both[1]["weights"][name])
    assert both[0]["records"] == both[1]["records"]


def test_only_the_first_process_writes(one, two):
    assert [each["written"] for each in two["words"]] == [[1, 2, 3, 4, 5], []]
    assert one["words"][0]["written"] == [1, 2, 3, 4, 5]


def test_what_is_exchanged(one, two):
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["shares"] == [[[0, 1, 2], [0]], [[3, 4], []]]
    assert two["first"][0] == two["first"][1]


def test_each_process_has_its_own_random_numbers_and_the_first_those_of_one(one, two):
    assert two["random"][0] == one["random"][0] != two["random"][1]


def test_a_loss_that_is_not_finite_in_one_process_stops_both(one, two):
    assert two["not finite"] == one["not finite"] * 2
    assert "not finite in epoch 1" in two["not finite"][0]


def test_all_go_on_from_the_state_of_the_first(two):
    first, second = two["resumed"]
    assert first["records"] == second["records"]
    assert [record["epoch"] for record in first["records"]] == [1, 2, 3, 4]
    for name, wanted in first["weights"].items():
        assert torch.equal(second["weights"][name], wanted)


def test_gradients_and_means_are_weighed_by_what_they_are_of(two):
    for means, gradients in two["average"]:
        assert means == pytest.approx([(1 * 2 + 2 * 3) / 3, 8])
        torch.testing.assert_close(gradients, [torch.tensor([1.0, 2.0]), torch.full((3, 1), 2 / 3)])


@pytest.fixture(scope="module")
def workspace(make):
    """A workspace that is ready to train."""
    workspace = make(**LONG)
    workspace.repro("features")
    return workspace


def curve(workspace):
    return pd.read_csv(workspace.folder / "metrics/train_curve.csv")


@pytest.mark.pipeline
def test_a_stage_starts_its_processes_under_dvc(workspace, monkeypatch):
    monkeypatch.setenv("CAPTIONER_PRECISION", "float32")
    workspace.change(decoder__dropout=0.0, train__scheduled_sampling=0.0)  # each process draws its own numbers
    workspace.repro("--single-item", "train")
    alone = curve(workspace)
    monkeypatch.setenv("CAPTIONER_PROCESSES", "2")
    printed = workspace.dvc("repro", "--force", "--single-item", "train")
    assert "shared by 2 processes" in printed
    assert printed.count("epoch 2/2") == 1
    pd.testing.assert_frame_equal(curve(workspace), alone, rtol=1e-3, atol=1e-4)
    workspace.change(**LONG)


def start(workspace, *command, processes=2):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=workspace.folder,
        env=surroundings(
            CAPTIONER_PROCESSES=str(processes),
            PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_epoch(process):
    """Read up to the first epoch's line; return the processes that train, by rank."""
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    return processes_of(process)


def processes_of(process):
    """Return the processes that it started to compute together, by rank."""
    descendants = psutil.Process(process.pid).children(recursive=True)
    return {each.environ()["RANK"]: each for each in descendants if "RANK" in each.environ()}


@pytest.mark.pipeline
def test_a_killed_process_ends_the_run_and_one_process_goes_on(workspace):
    process = start(workspace, "-m", "dvc", "repro", "--single-item", "train")
    ranks = wait_for_epoch(process)
    ranks["1"].kill()
    rest = process.stdout.read()
    assert process.wait() != 0
    assert "process 1 of 2 ended with SIGKILL" in rest
    assert "Traceback" not in rest
    assert not ranks["0"].is_running()
    assert not (workspace.folder / "models/decoder.safetensors").exists()
    assert len(list((workspace.folder / ".resume").glob("train-*.pt"))) == 1
    printed = workspace.dvc("repro", "--single-item", "train")
    assert "going on after epoch" in printed
    assert curve(workspace)["epoch"].tolist() == list(range(1, 13))
    assert (workspace.folder / "models/decoder.safetensors").exists()


@pytest.mark.pipeline
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(workspace, sent):
    shutil.rmtree(workspace.folder / ".resume", ignore_errors=True)
    process = start(workspace, "stages/train.py")
    ranks = wait_for_epoch(process)
    assert set(ranks) == {"0", "1"}
    process.send_signal(sent)
    rest = process.stdout.read()
    assert process.wait() == (-sent if sent == signal.SIGKILL else 130)
    assert ("run again to go on" in rest) == (sent != signal.SIGKILL)
    wait_for(lambda: all(not each.is_running() or each.status() == psutil.STATUS_ZOMBIE for each in ranks.values()))


SHARDS = (0, 256, 512)
STORES = ("data/features/grid.h5", "data/features/boundary.h5", "data/features/encoder.safetensors")


@pytest.fixture(scope="module")
def many(make):
    """A workspace of three shards, one of whose photos is broken, and the hashes of what one process made of it."""
    workspace = make(shapes__train=600, dataset__on_bad="skip", views__flip=False, views__mean=False)
    workspace.repro("tokenise", "weights")
    (path,) = (workspace.folder / "data/raw/images").glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        photos = {name: archive.read(name) for name in archive.namelist()}
    broken = next(name for name in photos if name.endswith("train_00300.jpg"))
    path.unlink()  # not through a link into DVC's cache
    zipped(path, photos | {broken: b"no photo"}, zipfile.ZIP_STORED)
    workspace.dvc("commit", "--force", "download", "tokenise")
    workspace.repro("features")
    return workspace, {path: outputs(workspace.folder)[path] for path in (*STORES, "metrics/features.json")}


def run_features(workspace):
    """Run the features stage under DVC; return what it printed and the hashes of what it made."""
    printed = workspace.dvc("repro", "--force", "--single-item", "features")
    assert not list((workspace.folder / ".resume").glob("features-*"))
    assert not list(workspace.folder.rglob(".part-*"))
    return printed, {path: outputs(workspace.folder)[path] for path in (*STORES, "metrics/features.json")}


@pytest.mark.pipeline
def test_two_workers_make_the_stores_of_one(many, monkeypatch):
    workspace, alone = many
    monkeypatch.setenv("CAPTIONER_PROCESSES", "2")
    printed, hashes = run_features(workspace)
    assert hashes == alone
    assert printed.count("skipped: ") == 1
    summary = read_json(workspace.folder / "metrics/features.json")
    assert (summary["images"], summary["skipped"]) == (619, ["train_00300.jpg"])


def shard_of(workspace, row, pattern="grid-{:08d}.h5"):
    return list((workspace.folder / ".resume").glob("features-*/" + pattern.format(row)))


def wait_for(condition, seconds=600):  # of a machine that does much else
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return result


@pytest.mark.pipeline
def test_a_lost_worker_loses_its_shard_alone(many):
    """As two machines with a folder in common would, of whom one is lost."""
    workspace, alone = many
    shutil.rmtree(workspace.folder / ".resume")
    first, second = (start(workspace, "stages/features.py", "--shard", f"{k}/2", processes=1) for k in (1, 2))
    wait_for(lambda: shard_of(workspace, 256, ".part-grid-{:08d}.h5-*"))
    second.kill()
    assert "dvc repro features" in first.communicate()[0]
    assert first.returncode == 0
    second.wait()
    assert [bool(shard_of(workspace, row)) for row in SHARDS] == [True, False, True]
    printed, hashes = run_features(workspace)
    assert "going on: 2 of 3 shards are there" in printed
    assert hashes == alone


@pytest.mark.pipeline
def test_a_killed_worker_ends_the_stage_and_what_is_whole_is_not_computed_again(many):
    workspace, alone = many
    shutil.rmtree(workspace.folder / ".resume")
    process = start(workspace, "-m", "dvc", "repro", "--force", "--single-item", "features")
    wait_for(lambda: shard_of(workspace, 0))
    ranks = processes_of(process)
    ranks["0"].kill()
    printed = process.communicate()[0]
    assert process.returncode != 0
    assert "process 0 of 2 ended with SIGKILL" in printed
    assert not any((workspace.folder / path).exists() for path in STORES)
    left = sum(bool(shard_of(workspace, row)) for row in SHARDS)
    assert 1 <= left <= 2
    printed, hashes = run_features(workspace)
    assert f"going on: {left} of 3 shards are there" in printed
    assert hashes == alone


def test_processes_meet_at_an_address_that_needs_no_name(monkeypatch):
    options = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CAPTIONER_PROCESSES", "2")
    monkeypatch.setattr("torch.distributed.run.run", options.append)
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])
    distributed(lambda params: None)(None)
    (given,) = options
    assert (given.local_addr, given.nproc_per_node) == ("127.0.0.1", "2")
    assert given.training_script == "stages/train.py"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_the_others_can_be_stopped(tmp_path, sent):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    process = subprocess.Popen([sys.executable, __file__, tmp_path], env=surroundings(**place))

    def listens():
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", int(port))) == 0

    wait_for(listens)
    process.send_signal(sent)
    assert process.wait(timeout=60) == -sent  # torch waits 30 minutes and more for the second process


def test_a_number_of_processes_that_is_none_is_refused(monkeypatch):
    for value in ("0", "two", "-1"):
        monkeypatch.setenv("CAPTIONER_PROCESSES", value)
        with pytest.raises(CaptionerError, match=f"CAPTIONER_PROCESSES: is '{value}', expected a whole number"):
            distributed(lambda params: None)(None)


if __name__ == "__main__":
    distributed(scenarios)(Path(sys.argv[1]))
