#!/usr/bin/env python3
"""Writes tests/fuzz/seeds/chat_parse: an answer in each format, behind the two bytes that fuzz_chat_parse.c reads."""
import os
import re

here = os.path.dirname(os.path.abspath(__file__))
out = os.path.join(here, "chat_parse")
os.makedirs(out, exist_ok=True)
call = '{"name": "f", "arguments": {"s": "a\\n\\"b\\"", "n": [1, {"x": null}]}}'
ds = lambda x: "<｜" + x + "｜>"
table = re.findall(r'\.name = "([^"]+)"', open(os.path.join(here, "../../../src/text/chat_formats.c")).read())
answers = {
    "harmony": ['<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"n": 1}<|call|>',
        "<|channel|>final<|message|>Hello<|return|>"],
    "gemma4": ['<|channel>thought\nhm\n<channel|><|tool_call>call:f{s:<|"|>x<|"|>,o:{k:true,l:[1,2.5]}}<tool_call|>ok'],
    "seed-oss": ["<seed:think>t</seed:think><seed:tool_call><function=f><parameter=n>1</parameter></function></seed:tool_call>"],
    "qwen3-coder": ["<tool_call>\n<function=f>\n<parameter=s>\na\n</parameter>\n<parameter=n>\n5\n</parameter>\n</function>\n</tool_call>"],
    "glm": ["<think>x</think><tool_call>f\n<arg_key>s</arg_key>\n<arg_value>12</arg_value>\n</tool_call>"],
    "deepseek": [ds("tool▁calls▁begin") + ds("tool▁call▁begin") + "function" + ds("tool▁sep") + "f\n```json\n{}\n```" + ds("tool▁call▁end") + ds("tool▁calls▁end")],
    "kimi-k2": ["<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"],
    "nemotron": ["<TOOLCALL>[" + call + "]</TOOLCALL>"], "command-r7b": ["<|START_ACTION|>[" + call + "]<|END_ACTION|>"],
    "mistral": ["[TOOL_CALLS] [" + call + "]", "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g{}"], "lfm2": ["<|tool_call_start|>[f(s='a', n=[1, None]), g()]<|tool_call_end|>"],
    "phi4-mini": ["<|tool_call|>[" + call + "]<|/tool_call|>"], "granite": ["<|tool_call|>[" + call + "]"],
    "hermes": ["a <think>b</think>\n<tool_call>\n" + call + "\n</tool_call>\n<tool_call>" + call + "</tool_call> c", "<tool_call>[" + call + ", " + call + "]</tool_call>"],
    "functionary": ['Ok <function=f>{"n": 1}</function>'],
    "llama3-json": ['{"name": "f", "parameters": {}}'],
}
for f, texts in answers.items():
    n = table.index(f)
    for i, t in enumerate(texts):
        for j, b in enumerate((7 << 3 | 3, 2 << 3 | 7)):
            with open(os.path.join(out, f"{f}-{i}{j}"), "wb") as fh:
                fh.write(bytes([n, b]) + t.encode())
