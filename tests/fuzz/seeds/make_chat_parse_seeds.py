#!/usr/bin/env python3
"""Writes tests/fuzz/seeds/chat_parse: an answer in each format, behind the two bytes that fuzz_chat_parse.c reads."""
import os

here = os.path.dirname(os.path.abspath(__file__))
out = os.path.join(here, "chat_parse")
os.makedirs(out, exist_ok=True)
call = '{"name": "f", "arguments": {"s": "a\\n\\"b\\"", "n": [1, {"x": null}]}}'
ds = lambda x: "<｜" + x + "｜>"
answers = {  # number of the format in chat_formats.c: text
    0: ['<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"n": 1}<|call|>',
        "<|channel|>final<|message|>Hello<|return|>"],
    1: ['<|channel>thought\nhm\n<channel|><|tool_call>call:f{s:<|"|>x<|"|>,o:{k:true,l:[1,2.5]}}<tool_call|>ok'],
    2: ["<seed:think>t</seed:think><seed:tool_call><function=f><parameter=n>1</parameter></function></seed:tool_call>"],
    3: ["<tool_call>\n<function=f>\n<parameter=s>\na\n</parameter>\n<parameter=n>\n5\n</parameter>\n</function>\n</tool_call>"],
    4: ["<think>x</think><tool_call>f\n<arg_key>s</arg_key>\n<arg_value>12</arg_value>\n</tool_call>"],
    5: [ds("tool▁calls▁begin") + ds("tool▁call▁begin") + "function" + ds("tool▁sep") + "f\n```json\n{}\n```" + ds("tool▁call▁end") + ds("tool▁calls▁end")],
    6: ["<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"],
    7: ["<TOOLCALL>[" + call + "]</TOOLCALL>"], 8: ["<|START_ACTION|>[" + call + "]<|END_ACTION|>"],
    9: ["[TOOL_CALLS] [" + call + "]", "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g{}"], 11: ["<|tool_call_start|>[f(s='a', n=[1, None]), g()]<|tool_call_end|>"],
    12: ["<|tool_call|>[" + call + "]<|/tool_call|>"], 13: ["<|tool_call|>[" + call + "]"],
    14: ["a <think>b</think>\n<tool_call>\n" + call + "\n</tool_call>\n<tool_call>" + call + "</tool_call> c", "<tool_call>[" + call + ", " + call + "]</tool_call>"],
    15: ['{"name": "f", "parameters": {}}'],
}
for f, texts in answers.items():
    for i, t in enumerate(texts):
        for j, b in enumerate((7 << 3 | 3, 2 << 3 | 7)):
            with open(os.path.join(out, f"{f:02d}-{i}{j}"), "wb") as fh:
                fh.write(bytes([f, b]) + t.encode())
