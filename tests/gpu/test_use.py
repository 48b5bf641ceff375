"""Captions, explanations, export and features on a pretended GPU: they are those of a CPU."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.base.device import select_device
from captioner.captions.vocabulary import EOS
from captioner.model.generate import generate
from captioner.sources.archives import Archive
from captioner.use.caption import PhotoCaptioner
from captioner.use.explain import explain
from captioner.use.export import export
from captioner.vision.encoder import END, Encoder, calibrate
from captioner.vision.features import BATCH, extract, join
from captioner.vision.photos import load_photo
from captioner.vision.store import FeatureStore, View
from tests.support.pretended_gpu import DEVICE, GPUTensor
from tests.support.worlds import WORDS, captioner_file, encoded, zipped

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def pictures(count):
    """Return coarse noise as {name: bytes of a PNG}, darker from picture to picture."""
    rng = np.random.default_rng(1)
    by_name = {}
    for number in range(count):
        pixels = rng.integers(0, 256 - 25 * number, (5, 6, 3), dtype=np.uint8)
        by_name[f"{number}.png"] = encoded(Image.fromarray(pixels).resize((70, 60), Image.Resampling.BICUBIC))
    return by_name


@pytest.fixture
def photos(tmp_path):
    for name, data in pictures(6).items():
        (tmp_path / name).write_bytes(data)
    return sorted(tmp_path.glob("*.png"))


@pytest.fixture(params=[True, False], ids=["attention", "pooled"])
def model(request, tmp_path):
    return captioner_file(tmp_path / "captioner.safetensors", attention=request.param)


def test_captions_are_those_of_a_cpu(model, photos, gpu):
    describe = PhotoCaptioner(model)
    assert describe.device == DEVICE
    assert all(isinstance(part, GPUTensor) for part in describe.captioner.state_dict().values())
    wanted = PhotoCaptioner(model, device=CPU)
    for search in ({}, {"beam": 1}, {"beam": 4, "consensus": 0.0}):
        assert describe(photos, **search) == wanted(photos, **search)


def test_generating_with_consensus_waits_twice_a_word_and_four_times_a_batch(model, photos, gpu):
    describe = PhotoCaptioner(model)
    with torch.no_grad():
        describe.captioner.decoder.output.bias[EOS] = -100  # so that captions have all their words
    pixels = torch.from_numpy(np.stack([describe.read(photo) for photo in photos]))
    choose = partial(describe.consensus.choose, weight=2.0)
    search = {"beam": 3, "length_penalty": 1.0, "device": DEVICE, "batch": 3, "choose": choose}
    describe(photos[:1])  # copies once which words are never generated
    gpu.reset()
    generate(describe.captioner, list(map(str, photos)), lambda at: [pixels[at]], WORDS, **search)
    assert gpu.waits.total() <= 2 * (2 * WORDS.max_length + 4), gpu.waits  # for two batches


def test_an_explanation_is_that_of_a_cpu(model, photos, gpu, tmp_path):
    result = explain(PhotoCaptioner(model), photos[0], tmp_path / "gpu.png", beam=3)
    wanted = explain(PhotoCaptioner(model, device=CPU), photos[0], tmp_path / "cpu.png", beam=3)
    assert result == wanted
    one, other = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("gpu", "cpu"))
    assert one.shape == other.shape
    assert abs(one - other).max() <= 2


def test_an_export_is_of_a_network_on_the_cpu(model, gpu, monkeypatch, tmp_path):
    """Up to torch's exporter, which cannot run on the pretended GPU."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")

    class Reached(Exception):
        pass

    def exporter(module, inputs, **_):
        tensors = [*module.state_dict().values(), *inputs]
        assert tensors
        assert not any(isinstance(tensor, GPUTensor) for tensor in tensors)
        raise Reached

    monkeypatch.setattr(torch.onnx, "export", exporter)
    with pytest.raises(Reached):
        export(model, tmp_path / "onnx")
    assert gpu.launches.total() == gpu.waits.total() == 0


def test_features_in_float16_are_those_in_float32_and_wait_four_times_a_batch(tmp_path, gpu, monkeypatch):
    photos = pictures(5)
    archive = Archive(zipped(tmp_path / "photos.zip", photos))
    torch.manual_seed(1)
    encoder = Encoder()
    pixels = torch.from_numpy(np.stack([load_photo(data, size=64, fit="squash") for data in photos.values()]))
    calibrate(encoder, [pixels])
    encoder.eval()
    views = [View(name) for name in photos]
    stores = {}
    for device, precision in ((select_device(), "auto"), (CPU, "float32")):
        monkeypatch.setenv("CAPTIONER_PRECISION", precision)
        folder = tmp_path / device.type
        shards = folder / "shards"
        shards.mkdir(parents=True)
        options = {"boundary": "layer4", "size": 64, "fit": "squash", "on_bad": "error", "shards": shards}
        gpu.reset()
        extract(archive, views, encoder, device=device, **options)
        if device == DEVICE:
            computing = {key: count for key, count in gpu.waits.items() if key[0] != "copy to cuda"}
            assert 0 < sum(computing.values()) <= 4 * -(-len(views) // BATCH), computing
            assert gpu.launches["convolution"] > 0
        join(views, shards, grid_path=folder / "grid.h5", boundary_path=folder / "boundary.h5")
        stores[device.type] = FeatureStore(folder / "grid.h5", layer=END)
    result, wanted = (stores[kind].read(range(len(views))).float() for kind in ("cuda", "cpu"))
    assert (result - wanted).abs().max() <= 0.01 * wanted.abs().max()
