"""Mixed precision: where it is used, and where not."""

from types import SimpleNamespace

import pytest
import torch

from captioner.base.device import (
    decoding_threads,
    features_dtype,
    half_precision,
    mixed_precision,
    prefers_few_shapes,
    select_device,
)
from captioner.base.errors import CaptionerError
from captioner.captions.vocabulary import Vocabulary
from captioner.model.captioner import Captioner
from captioner.model.decoder import Decoder
from captioner.model.generate import generate

CPU = torch.device("cpu")


def product():
    return torch.ones(2, 2) @ torch.ones(2, 2)


@pytest.fixture
def capable(monkeypatch):
    """A CPU with instructions for bfloat16, whatever this one has."""
    monkeypatch.delenv("CAPTIONER_PRECISION", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", None])
def test_a_cpu_trains_in_bfloat16_where_it_has_instructions_for_it(monkeypatch, capable, feature):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, feature: True})
    with mixed_precision(CPU):
        assert product().dtype == (torch.bfloat16 if feature else torch.float32)


def test_it_can_be_turned_off_and_a_wrong_value_is_refused(monkeypatch, capable):
    monkeypatch.setenv("CAPTIONER_PRECISION", "float32")
    with mixed_precision(CPU):
        assert product().dtype == torch.float32
    monkeypatch.setenv("CAPTIONER_PRECISION", "half")
    with pytest.raises(CaptionerError, match="CAPTIONER_PRECISION: is 'half', expected auto or float32"):
        mixed_precision(CPU)


@pytest.mark.parametrize(("value", "wanted"), [("auto", torch.bfloat16), ("float32", torch.float32)])
def test_features_are_computed_in_less_where_it_is_faster_and_allowed(monkeypatch, capable, value, wanted):
    monkeypatch.setenv("CAPTIONER_PRECISION", value)
    with half_precision(CPU):
        assert product().dtype == features_dtype(CPU) == wanted
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    with half_precision(CPU):
        assert product().dtype == torch.float32


def test_only_a_cpu_in_float32_has_no_need_of_few_shapes(monkeypatch, capable):
    assert prefers_few_shapes(CPU)
    assert prefers_few_shapes(torch.device("cuda"))
    monkeypatch.setenv("CAPTIONER_PRECISION", "float32")
    assert not prefers_few_shapes(CPU)
    assert prefers_few_shapes(torch.device("cuda"))


def test_captions_are_generated_in_single_precision(capable):
    shape = {"width": 8, "heads": 2, "attention": True, "tied": True, "dropout": 0.0}
    captioner = Captioner(Decoder(vocabulary=6, features=3, **shape))
    seen = []
    captioner.decoder.output.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    words = Vocabulary(words=("a", "b"), max_length=3)
    rows = torch.ones(2, 1, 1, 3)
    generate(captioner, ["x", "y"], lambda at: [rows[at]], words, beam=2, length_penalty=1.0, device=CPU)
    assert set(seen) == {torch.float32}


def test_float32_is_not_tf32_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setenv("CAPTIONER_DEVICE", "cpu")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE does
    try:
        select_device()
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def test_one_gpu_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("CAPTIONER_DEVICE", "cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(CaptionerError, match="cuda:1 is one GPU, and 2 processes need one each; set it to cuda"):
        select_device()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # of several machines
    monkeypatch.setenv("CAPTIONER_DEVICE", "cuda:99")
    with pytest.raises(CaptionerError, match="cuda:99 cannot be used here"):
        select_device()


@pytest.mark.parametrize(("wanted", "local", "expected"), [("auto", None, 0), ("cuda", None, 0), ("cuda", "1", 1)])
def test_a_gpu_is_taken_by_its_number(monkeypatch, wanted, local, expected):
    """torch.ones and is_available stand in for a machine with GPUs; set_device is torch's, up to its driver."""
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", taken.append, raising=False)
    fake = torch.device("cuda", int(local or 0))
    monkeypatch.setattr(torch, "ones", lambda *size, device: SimpleNamespace(device=fake))
    monkeypatch.setenv("CAPTIONER_DEVICE", wanted)
    if local:
        monkeypatch.setenv("LOCAL_RANK", local)
    assert select_device() == fake
    assert taken == [expected]


@pytest.mark.parametrize("wanted", ["gpu", "meta", "cuda:99"])
def test_a_device_that_cannot_be_is_refused(monkeypatch, wanted):
    monkeypatch.setenv("CAPTIONER_DEVICE", wanted)
    with pytest.raises(CaptionerError, match=f"CAPTIONER_DEVICE: (is )?{wanted}"):
        select_device()


def test_a_device_that_torch_was_built_without_is_refused_in_one_sentence(monkeypatch):
    def ones(*size, device):
        raise NotImplementedError("Could not run 'aten::empty.memory_format'. This could be because of\nmore lines")

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setenv("CAPTIONER_DEVICE", "mps")
    with pytest.raises(CaptionerError) as caught:
        select_device()
    assert str(caught.value) == "CAPTIONER_DEVICE: mps cannot be used here (this torch lacks it); set it to cpu"


@pytest.mark.parametrize("value", ["0", "-1", "two", "\N{SUPERSCRIPT TWO}"])
def test_a_number_of_workers_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("CAPTIONER_WORKERS", value)
    with pytest.raises(CaptionerError, match="CAPTIONER_WORKERS: is "):
        decoding_threads()


def test_a_gpu_too_old_for_torch_is_left_for_the_cpu(monkeypatch, caplog):
    def ones(*size, device):
        raise torch.AcceleratorError("no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setenv("CAPTIONER_DEVICE", "auto")
    assert select_device() == CPU
    assert "no kernel image is available" in caplog.text
    monkeypatch.setenv("CAPTIONER_DEVICE", "cuda")
    with pytest.raises(CaptionerError, match=r"cuda cannot be used here \(no kernel image.*; set it to cpu"):
        select_device()
