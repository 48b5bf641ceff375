"""Count how often `captioner.captions.ptb` gives the tokens of pycocoevalcap's Java tokeniser.

python dev/ptb_agreement.py Flickr8k_text.zip
"""

import sys
import time
import zipfile

from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from captioner.captions.ptb import ptb_tokens

FILES = ("Flickr8k.token.txt", "Flickr8k.lemma.token.txt")


def main() -> None:
    with zipfile.ZipFile(sys.argv[1]) as archive:
        for name in FILES:
            lines = archive.read(name).decode("utf-8").splitlines()
            captions = [line.split("\t", 1)[1] for line in lines if "\t" in line]
            java = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(captions)})
            start = time.perf_counter()
            ours = [" ".join(ptb_tokens(text)) for text in captions]
            seconds = time.perf_counter() - start
            differing = [i for i, tokens in enumerate(ours) if [tokens] != java[i]]
            equal = len(captions) - len(differing)
            print(f"{name}: {equal} of {len(captions)} equal ({equal / len(captions):.4%}), {seconds:.1f} s")
            for i in differing[:10]:
                print(f"  {captions[i]!r}\n    java {java[i][0]}\n    ours {ours[i]}")


if __name__ == "__main__":
    main()
