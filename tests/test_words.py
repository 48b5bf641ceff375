"""The loss of telling which words the captions of an image have."""

import pytest
import torch
from test_training import CPU, RECIPE, VOCABULARY, Stop, assert_same, captioner_of, run, sets_of, toy, weights_of

from captioner.decoder import Decoder
from captioner.model import Captioner
from captioner.training import NextWord
from captioner.vocabulary import BOS, EOS, PAD, UNK
from captioner.words import LEAST, WithWords, WordHead, word_shares


def captions(*images):
    """Pad lists of captions, ids without special tokens, to [N, K, L]."""
    most, longest = max(map(len, images)), max(len(caption) for image in images for caption in image) + 2
    ids = torch.full((len(images), most, longest), PAD)
    for row, image in zip(ids, images, strict=True):
        for place, caption in zip(row, image, strict=False):
            place[: len(caption) + 2] = torch.tensor([BOS, *caption, EOS])
    return ids


def test_the_shares_are_those_of_an_images_own_captions():
    ids = captions([[4, 5, 4], [5], [6, 5]], [[7, UNK]])  # the second image has one caption
    shares = word_shares(ids, 9)
    assert shares[:, 4:].tolist() == [[pytest.approx(1 / 3), 1.0, pytest.approx(1 / 3), 0.0, 0.0], [0, 0, 0, 1, 0]]


def test_words_of_one_image_in_a_hundred_are_told_and_no_special_token():
    count = round(2 / LEAST)  # images; 2 of them are one in a hundred
    rows = [[[4, UNK]] for _ in range(count)]
    rows[7], rows[150] = [[4, 5, 6]], [[4, 5]]
    head = WordHead(captions(*rows), words=8, features=3)
    assert head.told.tolist() == [4, 5]
    few = WordHead(captions([[4, 6]], [[5]]), words=8, features=3)
    assert few.told.tolist() == [4, 5, 6]  # of two images, one is enough


def test_it_begins_with_how_frequent_the_words_are():
    ids = captions([[4, 5], [4]], [[4], [6]], [[5], [5]], [[7], [4]])
    head = WordHead(ids, words=8, features=3).eval()
    told = head.linear(torch.randn(5, 3)).sigmoid()
    wanted = word_shares(ids, 8).mean(0)[head.told].clamp(1e-4, 1 - 1e-4)
    torch.testing.assert_close(told, wanted.expand(5, -1))


def plain_loss(head, features, ids):
    """Return the sum over images and words, one at a time."""
    total = torch.zeros(())
    for image, of_image in zip(features, ids, strict=True):
        real = [caption[caption != PAD].tolist() for caption in of_image if (caption != PAD).any()]
        for row, word in enumerate(head.told.tolist()):
            p = (head.linear.weight[row] @ image.mean(0) + head.linear.bias[row]).sigmoid()
            share = sum(word in caption for caption in real) / len(real)
            total = total - share * p.log() - (1 - share) * (1 - p).log()
    return total


def test_the_loss_and_its_gradient_are_those_of_each_word_alone():
    items, rows = toy(captions=lambda number: 1 + number % 3)
    (batch,) = sets_of(items, rows)[0].batches(torch.arange(16), 16, CPU)
    head = WordHead(sets_of(items, rows)[0].ids, words=len(VOCABULARY), features=3).eval()
    torch.manual_seed(1)
    torch.nn.init.normal_(head.linear.weight)
    features = rows[:16].flatten(1, 2).clone().requires_grad_()
    head(features, batch.inputs).backward()
    found, features.grad = features.grad, None
    loss = plain_loss(head, features, batch.inputs)
    torch.testing.assert_close(head(features, batch.inputs), loss)
    loss.backward()
    torch.testing.assert_close(found, features.grad)
    assert found.abs().min() > 0


def aim_of(train, *, weight):
    head = WordHead(train.ids, words=len(VOCABULARY), features=3)
    return WithWords(NextWord(label_smoothing=0.1), head, weight=weight)


def test_the_loss_is_added_to_the_sum_of_the_captions_losses():
    train, _ = sets_of(*toy())
    (batch,) = train.batches(torch.arange(16), 16, CPU)
    captioner = captioner_of().eval()
    features = captioner.features(batch.rows)
    aim = aim_of(train, weight=3.0).eval()
    loss, measure = aim(captioner, features, batch)
    alone, same = aim.objective(captioner, features, batch)
    assert (loss.over, measure) == (alone.over, same)
    wanted = alone.value * alone.over + 3 * plain_loss(aim.head, features, batch.inputs)
    torch.testing.assert_close(loss.value * loss.over, wanted)


def test_shared_among_processes_it_is_the_same():
    train, _ = sets_of(*toy(captions=lambda number: 1 + number % 3))
    captioner, aim = captioner_of().eval(), aim_of(train, weight=3.0).eval()

    def means(size):
        return [aim(captioner, captioner.features(b.rows), b)[0] for b in train.batches(torch.arange(16), size, CPU)]

    (whole,), parts = means(16), means(5)
    assert sum(part.over for part in parts) == whole.over
    torch.testing.assert_close(sum(part.value * part.over for part in parts) / whole.over, whole.value)


def test_the_encoder_learns_from_it_what_the_captions_do_not_ask_for():
    """Features that say nothing yet, and a decoder that does not listen: only the words can change the encoder."""

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)
            torch.nn.init.constant_(self.layer.weight, 0.01)

        def forward(self, rows, start):
            return self.layer(rows)

    train, _ = sets_of(*toy())
    (batch,) = train.batches(torch.arange(16), 16, CPU)
    torch.manual_seed(2)
    decoder = Decoder(
        vocabulary=len(VOCABULARY), features=3, width=16, heads=2, attention=False, tied=True, dropout=0.0
    )
    torch.nn.init.zeros_(decoder.image.weight)
    captioner = Captioner(decoder, Encoder(), start="layer4")
    aim = aim_of(train, weight=1.0).eval()
    optimizer = torch.optim.Adam([*captioner.encoder.parameters(), *aim.parameters()], lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        features = captioner.features(batch.rows)
        losses.append(float(aim.head(features, batch.inputs)))
        aim(captioner, features, batch)[0].value.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_an_interrupted_run_goes_on_with_the_layer_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = sets_of(*toy())
    recipe = {**RECIPE, "epochs": 3}
    whole, cut = aim_of(sets[0], weight=1.0), aim_of(sets[0], weight=1.0)
    captioner, records = run("whole", sets=sets, objective=whole, **recipe)
    with pytest.raises(KeyboardInterrupt):
        run("cut", sets=sets, objective=cut, on_epoch=Stop(2), **recipe)
    again = aim_of(sets[0], weight=1.0)
    assert not again.head.linear.weight.any()
    other, records_again = run("cut", sets=sets, objective=again, **recipe)
    assert records == records_again
    assert_same(captioner.state_dict(), other.state_dict())
    assert_same(weights_of(whole), weights_of(again))
