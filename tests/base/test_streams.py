"""What is printed never stops a stage or a command."""

import os
import subprocess
import sys

import pytest

PROGRAM = r"""
import sys
from captioner.base.streams import tolerant_streams
tolerant_streams()
print("caf\u00e9 \u72ac", "\udce9")
print("caf\u00e9 \u72ac", "\udce9", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("encoding", "out", "err"),
    [
        ("ascii:strict", b"caf? ? ?", b"caf\\xe9 \\u72ac \\udce9"),
        ("iso-8859-1", b"caf\xe9 ? ?", b"caf\xe9 \\u72ac \\udce9"),
        ("utf-8:strict", "caf\u00e9 \u72ac ".encode() + b"\xe9", "caf\u00e9 \u72ac ".encode() + b"\\udce9"),
    ],
)
def test_any_text_can_be_printed(encoding, out, err):
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True)
    assert (done.returncode, done.stdout.rstrip(), done.stderr.rstrip()) == (0, out, err)


def test_a_stream_that_is_no_text_file_is_left_alone(capsys):
    from captioner.base.streams import tolerant_streams

    tolerant_streams()  # pytest's
    print("a dog")
    assert capsys.readouterr().out == "a dog\n"


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_takes_everything_and_no_file_is_opened_in_its_place(tmp_path, closed):
    program = f"""
import os, sys
from captioner.base.streams import tolerant_streams
tolerant_streams()
with open("data", "w") as file:
    assert file.fileno() > 2
    print("a dog", file=sys.{closed})
    os.write({1 if closed == "stdout" else 2}, b"a cat")
    sys.{closed}.flush()
"""
    other = "2" if closed == "stdout" else "1"
    script = f'exec "$0" -c "$1" {1 if closed == "stdout" else 2}>&- {other}>other'
    done = subprocess.run(["sh", "-c", script, sys.executable, program], cwd=tmp_path)
    assert done.returncode == 0, (tmp_path / "other").read_text()
    assert (tmp_path / "data").read_text() == (tmp_path / "other").read_text() == ""
