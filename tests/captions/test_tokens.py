"""Text of every script: one form, its tokens, and how they are joined. The properties hold for all of Unicode."""
# ruff: noqa: RUF001

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu

from captioner.base.errors import CaptionerError
from captioner.captions.text import (
    LONGEST_RUN,
    lost_characters,
    lower,
    normalise,
    unsegmented,
)
from captioner.captions.tokens import caption_text, join_tokens, learnt_tokens, plain_text, scored_tokens, separate
from captioner.captions.vocabulary import SPECIAL, Vocabulary

LANGUAGES = ("en", "de", "fr", "tr", "zh", "ar", "hi", "he", "fa", "ro")
RESTLESS = "aIZı1_ .,'’-·\"!?()&@#/<>İḰ़्ा\u200c\u200d\u200b️ﾞㇰ々ーカｶ犬é́̈ك́ـש׳״־🐕🏽👩🔥🇩🇪①½‘ʻʼＡ３。、।،؟٫٣՞Ա"
RESTLESS += "´′‛`ﬁﻛﹷﷲ．，－ന്ത্Şţكيى"
RESTLESS += "\u00ad\u2060\u180e\u0e01\u0e32\U000e0067🏴"
TEXT = st.one_of(st.text(max_size=30), st.text(alphabet=RESTLESS, max_size=12))
SENTENCES = {
    "İstanbul'da İKİ köpek IŞIK altında koşuyor.": "tr",
    "L’homme à l'arrière : « où est le chien ? »": "fr",
    "一只狗在草地上奔跑。": "zh",
    "كلب بني، وقطة!": "ar",
    "एक कुत्ता घास पर दौड़ रहा है।": "hi",
    "two dogs 🐕\u200d🦺 ❤️ in the snow 👩🏽\u200d🚒": "en",
    "Mädchen spielen im Schnee – z. B. 3,5 Meter": "de",
}


@settings(max_examples=600, deadline=None)
@given(TEXT, st.sampled_from(LANGUAGES))
@example("İ\u094d\u200d", "de")
def test_the_tokens_of_the_tokens_are_the_tokens(text, language):
    tokens = scored_tokens(text, language)
    assert scored_tokens(" ".join(tokens), language) == tokens
    assert scored_tokens(join_tokens(tokens, language), language) == tokens
    assert all(token.split() == [token] for token in tokens)


@settings(max_examples=400, deadline=None)
@given(TEXT)
def test_normalised_text_stays_and_has_the_same_tokens(text):
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once.split(" ") == once.split() or not once
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in once)
    for language in LANGUAGES:
        assert scored_tokens(text, language) == scored_tokens(once, language)


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=30), st.sampled_from(LANGUAGES[1:]))
def test_no_sign_of_any_script_is_in_a_score_unless_it_is_inside_a_word(text, language):
    for token in scored_tokens(text, language):
        if token == "<unk>":
            continue
        assert token[0].isalnum()
        assert all(unicodedata.category(char)[0] not in "PS" for char in (token[0], token[-1])) or token[-1] == "׳"


@settings(max_examples=400, deadline=None)
@given(TEXT)
def test_english_drops_the_signs_that_ascii_has_not(text):
    for token in scored_tokens(text):
        assert token.isascii() or any(map(str.isalnum, token))


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=30), st.sampled_from(LANGUAGES[1:]))
def test_no_letter_is_lost_and_no_cluster_is_cut(text, language):
    text = "".join(char for char in normalise(text) if unicodedata.category(char) not in ("Co", "Cn", "Mn", "Mc", "Me"))
    tokens = learnt_tokens(separate(text, language), language=language, lowercase=False, punctuation=False)
    counted, lost = lost_characters(plain_text(text, language), tokens)
    assert lost.replace("�", "") == ""
    assert counted <= len(plain_text(text, language))
    for token in separate("".join(char + "̈́" for char in text if char.isalnum()), language):
        assert not unicodedata.category(token[0]).startswith("M")


@settings(max_examples=300, deadline=None)
@given(TEXT, st.sampled_from(LANGUAGES), st.booleans(), st.booleans())
def test_cleaning_twice_is_cleaning_once_and_gives_no_empty_token(text, language, lowercase, punctuation):
    rules = {"language": language, "lowercase": lowercase, "punctuation": punctuation}
    tokens = learnt_tokens(separate(text, language), **rules)
    assert learnt_tokens(tokens, **rules) == tokens
    assert all(token and token.split() == [token] for token in tokens)
    assert punctuation or all(any(map(str.isalnum, token)) for token in tokens)


@settings(max_examples=300, deadline=None)
@given(TEXT.filter(lambda text: not any("!" <= char <= "~" and not char.isalnum() for char in plain_text(text))))
def test_training_and_scores_have_the_same_words(text):
    """But for ASCII signs, and `£` and `€`, which become ASCII signs: English scores have them and training has not."""
    for language in LANGUAGES:
        learnt = learnt_tokens(separate(text, language), language=language, lowercase=True, punctuation=False)
        assert scored_tokens(join_tokens(learnt, language), language) == scored_tokens(text, language)


@pytest.mark.parametrize("text", SENTENCES)
def test_a_caption_that_is_generated_as_it_was_written_has_a_bleu_of_one(text):
    for language in ("en", SENTENCES[text]):
        raw = caption_text(text, "here")
        learnt = learnt_tokens(separate(raw, language), language=language, lowercase=True, punctuation=False)
        generated, truth = (" ".join(scored_tokens(each, language)) for each in (join_tokens(learnt, language), raw))
        bleu, _ = Bleu(4).compute_score({1: [truth]}, {1: [generated]}, verbose=0)
        assert bleu[0] == pytest.approx(1, abs=1e-6)


WORDS = {
    ("de", "Ma\u0308dchen im T-Shirt – z.B. 3,5 m²!"): "mädchen im t-shirt z b 3,5 m²",
    ("fr", "L’homme au cafe\u0301, « aujourd'hui »…"): "l'homme au café aujourd'hui",
    ("ca", "Una col·lecció"): "una col·lecció",
    ("tr", "IŞIK İyi Türkiye’nin"): "ışık iyi türkiye'nin",
    ("en", "IŞIK İyi"): "işik i̇yi",
    ("az", "QIZ"): "qız",
    ("hi", "कुत्ता दौड़ रहा है।"): "कुत्ता दौड़ रहा है",
    ("bn", "একটি মেয়ে।"): "একটি মেয়ে",
    ("ta", "நாய் ஓடுகிறது."): "நாய் ஓடுகிறது",
    ("si", "ශ්\u200dරී ලංකාව"): "ශ්\u200dරී ලංකාව",
    ("fa", "می\u200cخواهم\u200c، سـگ"): "می\u200cخواهم سگ",
    ("ar", "\u202bكَلْبٌ، ١٫٥ كـلب؟\u202c"): "كَلْبٌ ١٫٥ كلب",
    ("he", 'צה"ל ג׳ירפה, שָׁלוֹם בית־ספר צ׳'): "צה\"ל ג'ירפה שָׁלוֹם בית-ספר צ׳",
    ("he", "צה״ל ג'ירפה בית-ספר"): "צה\"ל ג'ירפה בית-ספר",
    ("fa", "كتاب سفيد"): "کتاب سفید",
    ("ur", "كتاب"): "کتاب",
    ("ar", "كتاب علي"): "كتاب علي",
    ("ro", "Ţară şi ţară și țară"): "țară și țară și țară",
    ("tr", "şapka"): "şapka",
    ("ar", "ﻛﻠﺐ ﻻ ﺍﻟﻘﻂ ﷲ كﹷلب"): "كلب لا القط الله كَلب",
    ("en", "ﬁsh ﬂower"): "fish flower",
    ("ml", "അവന്\u200d അവർ അവര്\u200d"): "അവൻ അവർ അവർ",
    ("bn", "উত্\u200dসব"): "উৎসব",
    ("ja", "３．５ｍ １０：３０ Ｔ－ｓｈｉｒｔ １，０００ ２，３"): "3.5m 10:30 t-shirt 1,000 2 3",
    ("fr", "d´un l′homme d‛eau l`homme `oui` 5′6"): "d'un l'homme d'eau l'homme oui 5 6",
    ("en", "don´t don`t"): "do n't don t",
    ("zh", "一只狗在3个人旁边。T恤"): "一 只 狗 在 3 个 人 旁 边 t 恤",
    ("en", "a 犬 dog。"): "a 犬 dog",
    ("ja", "犬がｶﾞｰﾄﾞを時々、コーヒー"): "犬 が ｶﾞ ｰ ﾄﾞ を 時 々 コ ー ヒ ー",
    ("ko", "개가 눈 속에서 뛴다."): "개가 눈 속에서 뛴다",
    ("th", "สุนัข\u200bวิ่ง บน หญ้า"): "สุนัข วิ่ง บน หญ้า",
    ("hy", "ինչպե՞ս է։"): "ինչպես է",
    ("uk", "м'ята м’ята мʼята"): "м'ята м'ята м'ята",
    ("uz", "o‘yin o'yin oʻyin ‘it’ ʼa"): "o'yin o'yin o'yin it ʼa",
    ("en", "donʼt"): "do n't",
    ("ja", "Ｔシャツの３人"): "t シ ャ ツ の 3 人",
    ("en", "ａ Ｄｏｇ"): "a dog",
    ("de", "a & b 50% <unk> #eins"): "a b 50 <unk> eins",
    ("en", "a & b 50% #one (red) !!"): "a & b 50 % #one -lrb- red -rrb- !!",
    ("en", "so\u00adft zero\ufeffwidth a\u200bb"): "soft zerowidth a b",
    ("en", "naïve cafe\u0301’s “dog”…"): "naïve café 's dog",
    ("de", "👩🏽\u200d🚒 ❤️ 🇩🇪 1️⃣ ☂"): "1️⃣",
}  # fmt: skip


@pytest.mark.parametrize(("language", "text"), WORDS)
def test_tokens_as_written_down(language, text):
    assert scored_tokens(text, language) == WORDS[language, text].split(" ")


def test_an_emoji_is_one_sign_with_its_modifiers():
    text = "hund 👩🏽\u200d🚒❤️🇩🇪🏴\U000e0067\U000e0062\U000e007f!"
    for language in ("en", "de"):
        assert separate(text, language) == ["hund", "👩🏽\u200d🚒", "❤️", "🇩🇪", "🏴\U000e0067\U000e0062\U000e007f", "!"]


FOR_PEOPLE = {
    ("en", "一 只 t-shirt 犬 が 3 개가 人"): "一只 t-shirt 犬が 3 개가 人",
    ("zh", "一 只 t-shirt 犬 が 3 개가 人"): "一只t-shirt犬が3 개가 人",
    ("ja", "2 匹 の 犬 t シ ャ ツ"): "2匹の犬tシャツ",
    ("ja", "iphone 2 台"): "iphone 2台",
    ("zh", "一 只 狗 ， 在 《 家 》 iphone 上 跑 。"): "一只狗，在《家》iphone上跑。",
    ("zh", "狗 , 2 只 猫 !"): "狗, 2只猫!",
    ("en", "A dog , running ( fast ) ."): "A dog, running (fast).",
    ("en", 'the " big " dog - at 5 % !!'): 'the " big " dog - at 5 %!!',
    ("en", "by mt . so"): "by mt . so",  # "mt." is one token
    ("es", "¿ dónde está ?"): "¿dónde está?",
    ("fr", "où est-il , le chien ?"): "où est-il, le chien ?",
    ("de", "3 , 5 „ hunde “"): "3, 5 „ hunde “",
    ("ar", "كلب ، وقطة ؟"): "كلب، وقطة؟",
    ("hi", "कुत्ता है ।"): "कुत्ता है।",
    ("en", "the man 's dog does n't sit , I 'm sure it 'd"): "the man's dog doesn't sit, I'm sure it'd",
    ("en", "'s li 'll o 're t-shirt n't"): "'s li 'll o 're t-shirt n't",
    ("de", "die mann 's"): "die mann 's",
    ("th", "สุนัข วิ่ง 2 ตัว บน หญ้า"): "สุนัข\u200bวิ่ง 2 ตัว\u200bบน\u200bหญ้า",
    ("lo", "ຫມາ ແລ່ນ"): "ຫມາ\u200bແລ່ນ",
    ("km", "ឆ្កែ កំពុង រត់ ។"): "ឆ្កែ\u200bកំពុង\u200bរត់។",
    ("my", "ခွေး ပြေး နေ"): "ခွေး\u200bပြေး\u200bနေ",
}


@pytest.mark.parametrize(("language", "text"), FOR_PEOPLE)
def test_text_for_people_has_the_spaces_that_they_write(language, text):
    tokens = text.split()
    assert join_tokens(tokens, language) == FOR_PEOPLE[language, text]
    assert Vocabulary(tuple(dict.fromkeys(tokens)), 9, language).split(FOR_PEOPLE[language, text]) == tokens


@settings(max_examples=600, deadline=None)
@given(st.lists(TEXT, max_size=4), st.sampled_from([*LANGUAGES, "ja", "th"]), st.booleans())
def test_text_for_people_has_the_same_tokens(texts, language, punctuation):
    rules = {"language": language, "lowercase": True, "punctuation": punctuation}
    tokens = [token for text in texts for token in learnt_tokens(separate(text, language), **rules)]
    text = join_tokens(tokens, language)
    assert text == " ".join(tokens) or separate(text, language) == tokens
    assert scored_tokens(text, language) == scored_tokens(" ".join(tokens), language)
    vocabulary = Vocabulary(tuple(sorted({*tokens} - {*SPECIAL})), 9, language)
    if not {*tokens} & {*SPECIAL}:
        assert vocabulary.split(text) == tokens


def test_case_follows_the_language():
    assert [lower("Iİ", language) for language in ("en", "de")] == ["ii̇"] * 2
    assert [lower("Iİ", language) for language in ("az", "crh", "gag", "tr")] == ["ıi"] * 4
    assert lower("H\u0331", "de") == "\u1e96"  # has no capital letter of its own


@pytest.mark.parametrize("letter", ["ก", "ກ", "ក", "က"])
def test_text_that_needs_a_dictionary_is_refused_where_it_stands(letter):
    fits = caption_text(letter * LONGEST_RUN + " " + letter * LONGEST_RUN, "captions.csv, line 7")
    assert unsegmented(fits) is None
    with pytest.raises(CaptionerError, match=r"^captions\.csv, line 7: .* 30 letters without a space.*Segment"):
        caption_text("a dog " + letter * (LONGEST_RUN + 1), "captions.csv, line 7")
    caption_text((letter * LONGEST_RUN + "\u200b") * 2, "")


def test_vowel_signs_do_not_count_as_letters_of_a_run():
    assert caption_text("กิ" * LONGEST_RUN, "") == "กิ" * LONGEST_RUN
    with pytest.raises(CaptionerError):
        caption_text("กิ" * (LONGEST_RUN + 1), "")


def test_lost_characters_are_those_in_no_token():
    assert lost_characters("a dog, 2 cats", []) == (9, "")  # ASCII letters reach a token by construction
    assert lost_characters("犬がいる。", ["犬", "が"]) == (4, "いる")
    assert lost_characters("caf\ufffd \ue000", ["caf"]) == (5, "\ufffd\ue000")
