#!/usr/bin/env python3
"""An export beside its source: tensors, and logits from gladius, stock llama.cpp and stock transformers.

See scripts/verify_export, which runs this. Limits: two programs that compute with the same float32 weights differ by
the order of their sums, far below F32_KL nats. Products with quantised weights round activations to 8 bits, on which
programs disagree where a value lies between two codes: KL, or twice llama.cpp's own distance from exact evaluation
where that is more (check_smollm2.py says why). A quantised file is compared with its source by its tensors; the
divergence of their logits is what quantising costs, and has no limit here.
"""
import argparse
import pathlib
import sys

import numpy
import torch
import transformers

import fixture
import weights
from common import FOLDER, gladius
from llamacpp import LlamaCpp, distributions

F32_KL, KL = 1e-5, 1e-3  # nats, mean
LOGITS = 1e-4            # of the logits' range
LAYER = 1e-3             # of the scores' range: where two programs part that should agree


def divergence(base, tested):
    """Mean and largest KL(base || tested) of log-probabilities, and the share of the same likeliest token."""
    each = (numpy.exp(base) * (base - tested)).sum(axis=1)
    return each.mean(), each.max(), (base.argmax(axis=1) == tested.argmax(axis=1)).mean()


class Transformers:
    def __init__(self, folder):
        transformers.utils.logging.disable_progress_bar()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def scores(self, ids, layers=None):
        """Logits [tokens, vocabulary]; with `layers`, of the hidden states behind so many."""
        with torch.no_grad():
            out = self.model(torch.tensor([ids]), output_hidden_states=layers is not None)
            logits = out.logits
            if layers is not None and layers < self.layers:  # the last hidden state is behind the norm already
                logits = self.model.lm_head(self.model.model.norm(out.hidden_states[layers]))
        return logits[0].double().numpy()

    @property
    def layers(self):
        return self.model.config.num_hidden_layers


def range_difference(a, b):
    """Largest difference as a part of the range."""
    return float(numpy.abs(a - b).max() / (a.max() - a.min()))


def departing_layer(a, b, layers):
    """Where two functions of the number of layers first differ, for people."""
    for n in range(layers + 1):
        if range_difference(a(n), b(n)) > LAYER:
            return "the embedding" if n == 0 else f"layer {n - 1}"
    return "the last norm or the head"


class Report:
    def __init__(self):
        self.failures = []

    def line(self, pair, text, failure=None):
        print(f"{pair}: {text}{'' if failure is None else '  FAILED: ' + failure}", flush=True)
        if failure is not None:
            self.failures.append(f"{pair}: {failure}")


def compare_tensors(report, source, paths):
    base = weights.read(source)
    for path in paths:
        count, (most, name), faults = weights.compare(base, weights.read(path))
        faults += weights.number_faults(weights.numbers(source), weights.numbers(path))
        report.line(f"tensors of {source.name} | {path.name}", f"{count}, differ by {most:.2%} at most ({name})",
                    "; ".join(faults) if faults else None)


def compare_in_gladius(report, source, path, exact, ids, layers):
    """What converting costs, in one program."""
    base, tested = fixture.scores(source, ids), fixture.scores(path, ids)
    mean, most, top = divergence(fixture.log_softmax(base), fixture.log_softmax(tested))
    failure = None
    if exact and not range_difference(base, tested) < LOGITS:
        failure = "they depart from " + departing_layer(lambda n: fixture.scores(source, ids, n),
                                                        lambda n: fixture.scores(path, ids, n), layers) + " on"
    report.line(f"logits of gladius {source.name} | gladius {path.name}",
                f"mean KL {mean:.1e}, largest {most:.1e}, same likeliest token {top:.1%}", failure)


def compare_llamacpp(report, path, theirs, ids, exact):
    ours = fixture.log_softmax(fixture.scores(path, ids))[-len(theirs):]
    mean, most, top = divergence(theirs, ours)
    limit = F32_KL if exact else KL
    if not exact and not mean < limit:  # llama.cpp's own distance from the same weights in F32
        gladius("export", path, "--gguf", "F32", "--out", FOLDER, "--name", "exact")
        exactly = fixture.log_softmax(fixture.scores(FOLDER / "exact-F32.gguf", ids))[-len(theirs):]
        limit = max(limit, 2 * divergence(theirs, exactly)[0])
    report.line(f"logits of llama.cpp | gladius, {path.name}",
                f"mean KL {mean:.1e}, largest {most:.1e} (mean below {limit:.0e}), same likeliest token {top:.1%}",
                None if mean < limit else "the programs differ; the tensors are in doubt only where they are named")


def compare_transformers(report, folder, model, ids):
    difference = range_difference(model.scores(ids), fixture.scores(folder, ids))
    failure = None
    if not difference < LOGITS:
        failure = "they depart from " + departing_layer(lambda n: model.scores(ids, n),
                                                        lambda n: fixture.scores(folder, ids, n), model.layers) + " on"
    report.line(f"logits of transformers | gladius, {folder.name}",
                f"differ by {difference:.1e} of their range (below {LOGITS:.0e})", failure)


def compare_programs(report, folder, model, path, theirs, ids, exact):
    mean, most, top = divergence(fixture.log_softmax(model.scores(ids))[-len(theirs):], theirs)
    wrong = exact and not mean < F32_KL
    report.line(f"logits of transformers {folder.name} | llama.cpp {path.name}",
                f"mean KL {mean:.1e}, largest {most:.1e}, same likeliest token {top:.1%}",
                f"above {F32_KL:.0e}, and both hold float32" if wrong else None)


def verify(source, path, folder=None, text=None, tokens=40):
    """Prints a line for each pair; returns the failures."""
    report = Report()
    folder = folder or (source if weights.is_hugging_face(source) else None)
    ids = fixture.encode(source, fixture.english_text() if text is None else text)[:tokens]
    file = weights.read(path)
    kinds = {kind for _, kind in file.values()}
    layers = sum(name.endswith("attn_norm.weight") for name in file)
    exact = kinds == {"F32"}
    compare_tensors(report, source, [path] + ([folder] if folder and folder != source else []))
    compare_in_gladius(report, source, path, exact, ids, layers)
    server = LlamaCpp(path)
    theirs = distributions(server, ids, len(ids) - 1)
    del server
    compare_llamacpp(report, path, theirs, ids, exact)
    if folder:
        model = Transformers(folder)
        if folder != source:
            same = {kind for _, kind in weights.read(folder).values()} == {"F32"}
            compare_in_gladius(report, source, folder, same, ids, layers)
        compare_transformers(report, folder, model, ids)
        compare_programs(report, folder, model, path, theirs, ids, exact)
    return report.failures


def main():
    parser = argparse.ArgumentParser(description="Compares an export with its source.")
    parser.add_argument("source", type=pathlib.Path, help="checkpoint, training folder or Hugging Face folder")
    parser.add_argument("gguf", type=pathlib.Path, help="GGUF file")
    parser.add_argument("folder", type=pathlib.Path, nargs="?", help="Hugging Face folder")
    parser.add_argument("--text", type=pathlib.Path, help="text to compare on; by default a part of the licence")
    parser.add_argument("--tokens", type=int, default=40, help="of the text (40), at most 256")
    a = parser.parse_args()
    for path in (a.source, a.gguf, a.folder):
        if path and not path.exists():
            parser.error(f"there is no {path}")
    if not 2 <= a.tokens <= 256:
        parser.error("--tokens is not from 2 to 256")
    failures = verify(a.source, a.gguf, a.folder, a.text.read_text(encoding="utf-8") if a.text else None, a.tokens)
    if failures:
        sys.exit(f"{len(failures)} comparisons failed")
    print("verified")


if __name__ == "__main__":
    main()
