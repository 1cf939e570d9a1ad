# SPDX-License-Identifier: Apache-2.0
"""Grammars against llama.cpp: what it writes under a grammar, our matcher reads, to the end where it ended there."""
import subprocess

import pytest
import text_oracles as oracles
from peers import BUILD, ROOT, llama_folder, model_path, run

GRAMMARS = {
    "list": 'root ::= ("- " [^\\n]{1,20} "\\n"){2,4}',
    "sums": 'root ::= e "\\n"\ne ::= t ([-+*] t){0,6}\nt ::= [0-9]{1,3} | "(" e ")"',
    "json": 'root ::= "{" ws p ("," ws p){0,3} "}"\no ::= "{" ws (p ("," ws p){0,3})? "}"\np ::= s ":" ws v\n'
    'v ::= s | n | o | "true" | "null"\n'
    's ::= "\\"" ([^"\\\\\\x00-\\x1f] | "\\\\" ["\\\\nt]){0,12} "\\""\n'
    'n ::= "-"? ("0" | [1-9] [0-9]{0,5})\nws ::= [ \\n]?',
    "words": 'root ::= (w " "?)+ [.!] #end\nw ::= "al" "pha"? | "be" | [α-ω]{2} | "é" .',
}


@pytest.fixture(scope="module")
def accepts(tmp_path_factory):
    program = tmp_path_factory.mktemp("grammar") / "grammar_accepts"
    oracles.compile_helper(ROOT, BUILD, "grammar_accepts.c", program)
    return program


@pytest.mark.parametrize("name", sorted(GRAMMARS))
def test_what_llama_writes_is_read(name, accepts, tmp_path):
    model, file = model_path("smollm2"), tmp_path / "grammar.gbnf"
    file.write_text(GRAMMARS[name], encoding="utf-8")
    command = [llama_folder() / "llama-completion", "-m", model, "-t", 1, "-p", "Write:", "-n", 60, "--seed", 1]
    command += ["--grammar-file", file, "--temp", 1.5, "--top-k", 0]
    command += ["--no-display-prompt", "-no-cnv", "--no-warmup"]
    # Under a grammar llama.cpp may take half a second for a token: one answer each.
    done = subprocess.run([str(x) for x in command], capture_output=True, stdin=subprocess.DEVNULL, timeout=1000)
    assert done.returncode == 0, done.stderr[-400:]
    text, verdicts = done.stdout, ("begun", "complete")
    if text.rstrip().endswith(b" [end of text]"):
        text, verdicts = text[: text.rindex(b" [end of text]")], ("complete",)
    else:  # cut off; the last newlines may be the program's own
        text = text.decode(errors="ignore").encode().rstrip(b"\n")
    said = run(accepts, model, file, input=text).decode().strip()
    assert len(text) > 3 and said in verdicts, (text, said)
