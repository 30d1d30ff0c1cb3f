#!/usr/bin/env python3
"""An exported Hugging Face folder in stock transformers: loading without any warning, logits, and greedy texts."""
import logging
import sys
import warnings

import numpy
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import fixture

LOGITS_LIMIT = 1e-4  # of the logits' range
NEW_TOKENS = 64


def load_quietly(folder):
    """The model and tokenizer of a folder, and everything that transformers had to say."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = transformers.utils.logging.get_logger()
    logger.addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    logger.removeHandler(handler)
    messages += [str(w.message) for w in caught]
    messages += [f"{kind}: {names}" for kind, names in info.items() if names]
    return model.eval(), tokenizer, messages


def logits_difference(model, source, ids):
    """Largest difference of logits, as a part of their range."""
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].double().numpy()
    ours = fixture.scores(source, ids)
    return float(numpy.abs(ours - theirs).max() / (theirs.max() - theirs.min()))


def continuation(model, tokenizer, prompt):
    ids = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
    # Decoded with the prompt, since a space at the start of a text is dropped.
    before = tokenizer.decode(ids["input_ids"][0], skip_special_tokens=True)
    return tokenizer.decode(out, skip_special_tokens=True)[len(before):]


def main():
    fixture.make_model()
    transformers.utils.logging.disable_progress_bar()
    model, tokenizer, failures = load_quietly(fixture.HF)
    text = fixture.english_text()[:500]
    ids = fixture.encode(fixture.HF, text)
    if tokenizer(text)["input_ids"] != ids:
        failures.append("token ids differ")
    differences = {path.name: logits_difference(model, path, ids) for path in (fixture.F32, fixture.HF)}
    for name, difference in differences.items():
        print(f"{name}: logits differ by {difference:.1e} of their range (at most {LOGITS_LIMIT:.0e})")
        if not difference < LOGITS_LIMIT:
            failures.append(f"{name}: logits differ by {difference}")
    for prompt in fixture.PROMPTS:
        ours, theirs = fixture.continuation(fixture.HF, prompt, NEW_TOKENS), continuation(model, tokenizer, prompt)
        if ours != theirs:
            failures.append(f"after {prompt!r}\n  gladius      {ours!r}\n  transformers {theirs!r}")
    print("\n".join(failures))
    if failures:
        sys.exit(f"{len(failures)} differences from transformers")
    print(f"loads without a warning; logits differ by {max(differences.values()):.1e} of their range; "
          f"{len(fixture.PROMPTS)} greedy texts of {NEW_TOKENS} tokens equal")


if __name__ == "__main__":
    main()
