"""Stock llama.cpp: a server of one model on the loopback interface, and comparing its distributions with gladius'."""
import json
import urllib.request

import numpy
import xllamacpp

from fixture import log_softmax, scores


class LlamaCpp:
    """Computes in float32 wherever llama.cpp lets one choose; weights stay in the file's types."""

    def __init__(self, path):
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = 256, 1, 0
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.warmup = parameters.fit_params = False
        parameters.check_tensors = True
        parameters.verbosity = -1
        self.server = xllamacpp.Server(parameters)

    def post(self, path, **body):
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def encode(self, text):
        return self.post("/tokenize", content=text, add_special=True)["tokens"]

    def continuation(self, prompt, tokens):
        return self.post("/completion", prompt=prompt, n_predict=tokens, temperature=0, samplers=["temperature"],
                         cache_prompt=False)["content"]

    def log_probabilities(self, ids):
        """Of every token after these."""
        answer = self.post("/completion", prompt=ids, n_predict=1, n_probs=1 << 24, temperature=0)
        entries = answer["completion_probabilities"][0]["top_logprobs"]
        result = numpy.full(len(entries), numpy.nan)
        for entry in entries:
            result[entry["id"]] = entry["logprob"]
        assert not numpy.isnan(result).any(), "llama.cpp left out tokens"
        return log_softmax(result)  # its own sum of probabilities is off by rounding


def distributions(server, ids, positions):
    """llama.cpp's log-probabilities after each of the last `positions` prefixes."""
    return numpy.array([server.log_probabilities(ids[:n]) for n in range(len(ids) - positions + 1, len(ids) + 1)])


def divergences(theirs, model, ids):
    """KL(llama.cpp || gladius) of each distribution after the last prefixes, in nats."""
    ours = log_softmax(scores(model, ids))[-len(theirs):]
    return (numpy.exp(theirs) * (theirs - ours)).sum(axis=1)
