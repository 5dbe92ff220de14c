#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes chat_templates.json beside this file.

usage: make_chat_golden.py SMOLLM2.gguf
needs: pip install gguf jinja2

Jinja2 renders the models' templates as transformers does (trim_blocks, lstrip_blocks, a sandbox).
SmolLM2's is the original, read from its file. The others follow the public ones of the models named
and are shortened: what never runs here is left out (tools, images, reasoning, most checks).
"""
import json
import sys
from pathlib import Path

import jinja2
from gguf import GGUFReader
from jinja2.sandbox import ImmutableSandboxedEnvironment

RAISE_ALTERNATE = "{{ raise_exception('roles must alternate') }}"
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# The branch for tools comes first and opens a system turn without a text of its own.
QWEN25 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
QWEN3 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
# As LLaMA-Factory exports it: the text is in a variable.
CHATML_VARIABLE = (
    "{% set system_message = 'You\\'re a \"helpful\" assistant.\\nBe brief.' %}"
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% endif %}"
    "{% if system_message is defined %}"
    "{{ '<|im_start|>system\\n' + system_message + '<|im_end|>\\n' }}{% endif %}"
    "{% for message in loop_messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'user' %}"
    "{{ '<|im_start|>user\\n' + content + '<|im_end|>\\n<|im_start|>assistant\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ content + '<|im_end|>' + '\\n' }}"
    "{% endif %}{% endfor %}"
)
# The text stands outside of any expression.
CHATML_PLAIN = """{% if messages[0]['role'] != 'system' %}
<|im_start|>system
You're "Plain", a bot.<|im_end|>
{% endif %}
{% for message in messages %}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
LLAMA32 = r"""{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + RAISE_ALTERNATE + "{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
GEMMA3 = r"""{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("roles must alternate") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {{- message['content'] | trim }}
    {{- '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
"""


def mistral(open_, close, gap, trim, which):
    """The later official templates; the system message goes with the first or the last question."""
    system = "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}" \
        "{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}"
    answer = "message['content']" + ("|trim" if trim else "")
    return (
        system + "{{ bos_token }}{% for message in loop_messages %}{% if message['role'] == 'user' %}"
        "{% if loop." + which + " and system_message is defined %}"
        "{{ '" + open_ + "' + system_message + '\\n\\n' + message['content'] + '" + close + "' }}"
        "{% else %}{{ '" + open_ + "' + message['content'] + '" + close + "' }}{% endif %}"
        "{% else %}{{ " + (f"'{gap}' + " if gap else "") + answer + " + eos_token }}{% endif %}{% endfor %}"
    )


MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + RAISE_ALTERNATE + "{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)


def mistral_v7(gap):
    return (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '[INST]" + gap + "' + message['content'] + '[/INST]' }}"
        "{% elif message['role'] == 'system' %}"
        "{{ '[SYSTEM_PROMPT]" + gap + "' + message['content'] + '[/SYSTEM_PROMPT]' }}"
        "{% else %}{{ " + (f"'{gap}' + " if gap else "") + "message['content'] + eos_token }}{% endif %}{% endfor %}"
    )


LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + RAISE_ALTERNATE + "{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
PHI3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{'<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' + '\\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
PHI35 = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI4_MINI = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI4 = (
    "{% for message in messages %}{% if (message['role'] == 'system') %}"
    "{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% elif (message['role'] == 'user') %}"
    "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% elif (message['role'] == 'assistant') %}"
    "{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
ZEPHYR = r"""{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
# Of no family here: they look like zephyr and chatml.
FALCON3 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<|user|>\\n' + message['content'] + '\\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)
SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}: "
    "{{ message['content'] }}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

# name: family, BOS, EOS, template. BOS is the text that the template may print.
TEMPLATES = {
    "SmolLM2": ("chatml", "<|im_start|>", "<|im_end|>", None),
    "OpenHermes 2.5": ("chatml", "<s>", "<|im_end|>", CHATML),
    "Qwen2": ("chatml", "", "<|im_end|>", QWEN2),
    "Qwen2.5": ("chatml", "", "<|im_end|>", QWEN25),
    "Qwen3": ("chatml", "", "<|im_end|>", QWEN3),
    "chatml, system in a variable": ("chatml", "", "<|im_end|>", CHATML_VARIABLE),
    "chatml, system as plain text": ("chatml", "", "<|im_end|>", CHATML_PLAIN),
    "Llama 3": ("llama3", "<|begin_of_text|>", "<|eot_id|>", LLAMA3),
    "Llama 3.2": ("llama3", "<|begin_of_text|>", "<|eot_id|>", LLAMA32),
    "Gemma 2": ("gemma", "<bos>", "<eos>", GEMMA2),
    "Gemma 3": ("gemma", "<bos>", "<eos>", GEMMA3),
    "Mistral 7B v0.2": ("mistral", "<s>", "</s>", MISTRAL),
    "Mistral v1": ("mistral-v1", "<s>", "</s>", mistral(" [INST] ", " [/INST]", " ", False, "first")),
    "Mistral v3": ("mistral-v3", "<s>", "</s>", mistral("[INST] ", "[/INST]", " ", True, "last")),
    "Mistral Nemo": ("mistral-v3-tekken", "<s>", "</s>", mistral("[INST]", "[/INST]", "", False, "last")),
    "Mistral v7": ("mistral-v7", "<s>", "</s>", mistral_v7(" ")),
    "Mistral v7 Tekken": ("mistral-v7-tekken", "<s>", "</s>", mistral_v7("")),
    "Llama 2": ("llama2", "<s>", "</s>", LLAMA2),
    "Phi-3": ("phi3", "<s>", "<|endoftext|>", PHI3),
    "Phi-3.5": ("phi3", "<s>", "<|endoftext|>", PHI35),
    "Phi-4-mini": ("phi4-mini", "<|endoftext|>", "<|endoftext|>", PHI4_MINI),
    "Phi-4": ("phi4", "<|endoftext|>", "<|im_end|>", PHI4),
    "Zephyr": ("zephyr", "<s>", "</s>", ZEPHYR),
    "StableLM 2 Zephyr": ("stablelm", "<|endoftext|>", "<|endoftext|>", ZEPHYR),
    "Falcon 3": ("", "", "<|endoftext|>", FALCON3),
    "SmolVLM": ("", "", "<|end_of_utterance|>", SMOLVLM),
}
SYSTEM = ("system", "Answer in {verse}.\n")
ASK, ANSWER = ("user", " What is 2 + 2?\n"), ("assistant", "\u2003It's '4'. \n")
CONVERSATIONS = [
    [ASK],
    [("user", "Hi {{ there }} <b>\u00a0"), ANSWER, ("user", "\U0001f600 Sure?")],
    [SYSTEM, ASK],
    [SYSTEM, ASK, ANSWER, ("user", "\n\tWhy?"), ("assistant", "Because."), ("user", "")],
    [("system", ""), ASK],
]


def raise_exception(message):
    raise jinja2.TemplateError(message)


def render(template, conversation, bos, eos, open_answer):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    messages = [{"role": role, "content": content} for role, content in conversation]
    try:
        text = environment.from_string(template).render(
            messages=messages, add_generation_prompt=open_answer, bos_token=bos, eos_token=eos)
    except jinja2.TemplateError:
        return None
    # The tokenizer's task. SmolLM2's BOS is not printed as such: it begins each turn.
    return text[len(bos):] if bos and "bos_token" in template and text.startswith(bos) else text


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    smollm2 = GGUFReader(sys.argv[1]).fields["tokenizer.chat_template"].contents()
    cases = []
    for name, (family, bos, eos, template) in TEMPLATES.items():
        template = template or smollm2
        case = {"name": name, "family": family, "eos": eos, "template": template}
        if family:
            case["open"] = [render(template, c, bos, eos, True) for c in CONVERSATIONS]
            if template != CHATML_VARIABLE:  # which always opens the answer
                # Phi ends a text without a question with EOS, which belongs to training.
                case["closed"] = [
                    text.removesuffix(eos) if text and "else %}{{ eos_token" in template else text
                    for text in (render(template, c, bos, eos, False) for c in CONVERSATIONS)]
            if name == "Phi-3.5":  # alone in its family it leaves out an empty system message
                case["open"][4] = case["closed"][4] = None
        cases.append(case)
    head = [[{"role": role, "content": content} for role, content in c] for c in CONVERSATIONS]
    path = Path(__file__).parent / "chat_templates.json"
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    path.write_text('{"conversations": ' + json.dumps(head) + ', "cases": [\n' + lines + "\n]}\n")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
