"""What evaluate writes: scores, language figures, word scores, and intervals of both models and of their difference."""

import json
from types import SimpleNamespace

from captioner.base.files import read_json, write_json
from captioner.captions.vocabulary import Vocabulary
from captioner.results import evaluate as module
from captioner.results.intervals import DIFFERENCE, score_intervals

RAW = {
    "a.jpg": ["A dog runs on the grass .", "The brown dog is running .", "A dog in a field ."],
    "b.jpg": ["Two men climb a steep rock .", "Climbers on a rock .", "Men climb ."],
    "c.jpg": ["A girl swims in the pool .", "The girl is in the water .", "A child swims ."],
}
GENERATED = {
    "frozen": {"a.jpg": "a cat runs", "b.jpg": "a man on a rock", "c.jpg": "a dog runs on the grass"},
    "finetuned": {"a.jpg": "a dog runs on the grass", "b.jpg": "two men climb a rock", "c.jpg": "a girl in the pool"},
}


def evaluated(folder, monkeypatch, language="en"):
    words = Vocabulary(words=("a", "dog", "runs"), max_length=9, language=language)
    lines = [{"image": image, "split": "test", "raw": raw, "ids": []} for image, raw in RAW.items()]
    lines.append({"image": "t.jpg", "split": "train", "raw": ["A dog runs ."], "ids": [words.encode(["a", "dog"])]})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder / "vocabulary.json", words.as_dict())
    card = SimpleNamespace(vocabulary=words, start="layer4", encoder="x", image={}, mean=False)
    loaded = {path: SimpleNamespace(examples=None, captions=texts) for path, texts in GENERATED.items()}
    monkeypatch.setattr(module, "load_model", lambda path: (loaded[path], card))
    rows = {image: row for row, image in enumerate(RAW)}
    store = SimpleNamespace(rows=rows, captioned=lambda images, mean: [[rows[image]] for image in images])
    monkeypatch.setattr(module, "FeatureStore", lambda path, **_: store)
    monkeypatch.setattr(module, "generate", lambda captioner, names, *_, **__: captioner.captions)
    monkeypatch.setenv("PATH", "")  # without METEOR
    module.evaluate(
        {name: (name, "store") for name in GENERATED},
        split="test",
        captions=folder / "captions.jsonl",
        vocabulary=folder / "vocabulary.json",
        beam=1,
        length_penalty=1.0,
        consensus=0.0,
        scores=folder / "evaluate.json",
        generated=folder / "captions.csv",
    )
    return read_json(folder / "evaluate.json")


def test_every_score_has_its_interval_and_so_has_the_gain(tmp_path, monkeypatch):
    result = evaluated(tmp_path, monkeypatch)
    assert list(result) == ["images", "frozen", "finetuned", "intervals"]
    scores = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
    language = ["distinct captions", "vocabulary", "mean length", "copied from training"]
    words = ["absent words", "agreed words"]
    intervals = score_intervals(result)
    for model in GENERATED:
        assert list(result[model]) == scores + language + words
        assert list(intervals[model]) == scores + words
        assert all(ends.low <= result[model][name] <= ends.high for name, ends in intervals[model].items())
    assert list(intervals[DIFFERENCE]) == scores + words
    for name, ends in intervals[DIFFERENCE].items():
        assert ends.low <= result["finetuned"][name] - result["frozen"][name] <= ends.high
    assert intervals[DIFFERENCE]["CIDEr"].low > 0  # better for every image
    assert "interval" not in module.table_of(result)


def test_intervals_are_the_same_in_every_run(tmp_path, monkeypatch):
    assert evaluated(tmp_path, monkeypatch) == evaluated(tmp_path, monkeypatch)


def test_other_languages_have_no_word_scores(tmp_path, monkeypatch):
    result = evaluated(tmp_path, monkeypatch, language="de")
    names = [result["frozen"], result["finetuned"], *result["intervals"].values()]
    assert not any("absent words" in each or "agreed words" in each for each in names)
