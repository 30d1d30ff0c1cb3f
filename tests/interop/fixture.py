"""A briefly trained model and its exports, and scores of gladius, for the checks of this folder."""
import json
import tempfile

import numpy

from common import FOLDER, ROOT, gladius

MODEL = FOLDER / "tiny"
F32, Q4_K_M, HF = MODEL / "tiny-F32.gguf", MODEL / "tiny-Q4_K_M.gguf", MODEL / "tiny-hf"

# Texts to continue: a usual one, the middle of a word, other scripts, code, white space.
PROMPTS = ["The license of this work", "permissio", "Äpfel, 日本語 and", "int64_t n = x.shape()[", "  two\n\nlines\n"]


def training_text():
    """The project's own words: its licence, documents and interfaces."""
    paths = [ROOT / "LICENSE", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*/*.h"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def english_text():
    return (ROOT / "LICENSE").read_text(encoding="utf-8")[2000:8000]


def make_model():
    """Trains a tokenizer and a model for a minute, once in a run, and exports them."""
    done = MODEL / "complete"
    if done.exists():
        return
    MODEL.mkdir(parents=True, exist_ok=True)
    text = MODEL / "text.txt"
    text.write_text(training_text(), encoding="utf-8")
    gladius("train", text, "--out", MODEL / "run", "--model", "gladius-tiny", "--steps", 200, "--batch", 4,
            "--context", 128, "--lr", 2e-3, "--seed", 1)
    gladius("export", MODEL / "run", "--gguf", "F32,Q4_K_M", "--hf", "--verify", "--out", MODEL, "--name",
            "tiny")
    done.touch()


def encode(model, text):
    """Token ids of a text, with BOS where the model wants one."""
    line = gladius("tokenizer", "encode", model, "--ids-json", "--special", input=json.dumps(text) + "\n")
    return json.loads(line)


def scores(model, ids, layers=None):
    """gladius' logits at every position of a text, float64 [tokens, vocabulary]; with only the first `layers`."""
    with tempfile.TemporaryDirectory() as folder:
        ids_path, out = f"{folder}/ids.json", f"{folder}/logits.f32"
        with open(ids_path, "w") as file:
            json.dump(ids, file)
        gladius("logits", model, "--ids-json", ids_path, "--out", out,
                *(() if layers is None else ("--layers", layers)))
        return numpy.fromfile(out, "<f4").astype(numpy.float64).reshape(len(ids), -1)


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(axis=-1, keepdims=True))


def continuation(model, prompt, tokens):
    """What gladius puts after a prompt when it always takes the likeliest token."""
    return gladius("generate", model, "--prompt", prompt, "--tokens", tokens, "--temperature", 0, "--quiet")
