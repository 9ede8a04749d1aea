#!/usr/bin/env python3
"""Writes tests/fuzz/seeds/chat: small templates of several kinds with requests that use every part of the API."""
import json
import os

here = os.path.dirname(os.path.abspath(__file__))
out = os.path.join(here, "chat")
os.makedirs(out, exist_ok=True)
templates = [
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}{% endif %}{{ m.content | trim }}{% endfor %}",
    "{% for t in tools %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{% for k, v in c.function.arguments.items() %}{{ k }}{{ v }}{% endfor %}{{ c.id | length }}{% endfor %}{{ m.reasoning_content }}{{ m.name }}{% endfor %}",
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text or '<img>' }}{% endfor %}{% endif %}{% endfor %}",
]
call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": [1, null]}"}}
requests = [
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]}]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "reasoning": "r", "tool_calls": [call, {**call, "id": "2"}]},
                  {"role": "tool", "tool_call_id": "2", "content": "x"}, {"role": "function", "tool_call_id": "call_1", "content": [{"type": "text", "text": "y"}]}],
     "tools": [{"type": "function", "function": {"name": "f"}}], "documents": [], "enable_thinking": False},
    {"messages": [{"role": "developer", "content": "d"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "part "}],
     "continue_final_message": True, "add_generation_prompt": False, "bos_token": "<s>", "strftime_now": "2025-01-02 03:04:05", "kwargs": {"x": 1}},
]
for i, t in enumerate(templates):
    for j, r in enumerate(requests):
        with open(os.path.join(out, f"{i}{j}"), "wb") as fh:
            fh.write(t.encode() + b"\0" + json.dumps(r).encode())
