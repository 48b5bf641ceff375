import shutil

import pytest

from captioner.captions.ptb import ptb_tokens

CASES = {
    "Two brown dogs race along the beach .": "two brown dogs race along the beach",
    "The runner 's shoes are red , not blue .": "the runner 's shoes are red not blue",
    'A banner reads " finish line " .': "a banner reads finish line",
    "I can't see it, and it won't stop.": "i ca n't see it and it wo n't stop",
    "It's gonna rain; they don't care.": "it 's gon na rain they do n't care",
    "You cannot, I wanna, let's, we're, I'd": "you can not i wan na let 's we 're i 'd",
    "don’t touch the dog’s “ball”": "do n't touch the dog 's ball",  # noqa: RUF001
    "John's dog eats from the dogs' bowls.": "john 's dog eats from the dogs bowls",
    "He said \"no dogs\". 'Why?'": "he said no dogs why",
    "A man (in red) jumps [twice]": "a man -lrb- in red -rrb- jumps -lsb- twice -rsb-",
    "a black-and-white t-shirt, close-up": "a black-and-white t-shirt close-up",
    "an ant's-eye-view": "an ant 's eye-view",
    "$5.00 or 50% off, 1,000 people": "$ 5.00 or 50 % off 1,000 people",
    "a 3/4 view at 10:30 of a 4-year-old": "a 3/4 view at 10:30 of a 4-year-old",
    "at 5 a.m. Mr. Smith left the U.S.": "at 5 a.m. mr. smith left the u.s.",
    "in Washington D.C.": "in washington d.c.",
    "wait... what -- a dog - or two": "wait what a dog or two",
    "Wow!! Really?! Yes!": "wow !! really ?! yes",
    "mail me at joe@example.com now": "mail me at joe@example.com now",
    "black & white man/woman a = b # 7": "black & white man/woman a = b # 7",
    "O'Brien at five o'clock, rock 'n' roll in the '80s": "o'brien at five o'clock rock 'n' roll in the '80s",
    "A café in São Paulo": "a café in são paulo",
    "A dog. It runs! Does it? Yes.": "a dog it runs does it yes",
    "a <unk> dog": "a <unk> dog",
    " . ": "",
    "": "",
}


@pytest.mark.parametrize("text", CASES)
def test_tokens_as_written_down(text: str) -> None:
    assert ptb_tokens(text) == CASES[text].split()


@pytest.mark.parametrize("text", CASES)
def test_tokens_are_stable(text: str) -> None:
    once = ptb_tokens(text)
    assert ptb_tokens(" ".join(once)) == once


@pytest.mark.skipif(shutil.which("java") is None, reason="no java to compare with")
def test_java_gives_the_same_tokens() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    java = PTBTokenizer().tokenize({text: [{"caption": text}] for text in CASES if text})
    assert {text: tokens[0].split() for text, tokens in java.items()} == {t: ptb_tokens(t) for t in CASES if t}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("AT&T", ["at", "&", "t"]),  # the first reading gives "at&t", which sorts after the text
        ("$B&TB/A", ["$", "b", "&", "tb", "/", "a"]),  # and this one's sorts before it
    ],
)
def test_tokens_that_are_several_when_they_are_read_again_are_separated(text, tokens):
    assert ptb_tokens(text) == tokens
