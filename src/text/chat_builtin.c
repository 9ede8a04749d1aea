/* Built-in chat templates, used only when asked for by name (--chat-template NAME): one row a format. They know
 * system, user and assistant messages; tools come by chat_fit's own description. */
#include <string.h>

#include "text/chat_impl.h"

/* Formats without a system role: its text stands before the first user message. */
#define FIRST_SYSTEM                                                                                   \
    "{%- set ns = namespace(sys='') -%}{%- if messages[0].role == 'system' -%}"                        \
    "{%- set ns.sys = messages[0].content -%}{%- set messages = messages[1:] -%}{%- endif -%}"
#define LOOP(body) "{%- for m in messages -%}" body "{%- endfor -%}"
#define PROMPT(text) "{%- if add_generation_prompt -%}{{ " text " }}{%- endif -%}"

static const struct { const char *name, *text; } builtins[] = {
    {"chatml",
         LOOP("{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}")
     PROMPT("'<|im_start|>assistant\\n'")},
    {"llama2", "{{ bos_token }}" FIRST_SYSTEM
     LOOP("{%- if m.role == 'user' -%}{{ (bos_token if not loop.first) ~ '[INST] ' ~ ("
          "'<<SYS>>\\n' ~ ns.sys ~ '\\n<</SYS>>\\n\\n' "
          "if loop.first and ns.sys) ~ m.content | trim ~ ' [/INST]' }}"
          "{%- else -%}{{ ' ' ~ m.content | trim ~ ' ' ~ eos_token }}{%- endif -%}")},
    {"llama3", "{{ bos_token }}"
     LOOP("{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}")
     PROMPT("'<|start_header_id|>assistant<|end_header_id|>\\n\\n'")},
    {"llama4",
         "{{ bos_token }}"
     LOOP("{{ '<|header_start|>' + m.role + '<|header_end|>\\n\\n' + m.content | trim + '<|eot|>' }}")
     PROMPT("'<|header_start|>assistant<|header_end|>\\n\\n'")},
    {"gemma", "{{ bos_token }}" FIRST_SYSTEM
     LOOP("{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
          "{%- if loop.first and ns.sys -%}{{ ns.sys | trim + '\\n\\n' }}{%- endif -%}"
          "{{ m.content | trim + '<end_of_turn>\\n' }}") PROMPT("'<start_of_turn>model\\n'")},
    {"mistral", "{{ bos_token }}" FIRST_SYSTEM
     LOOP("{%- if m.role == 'user' -%}{{ '[INST] ' ~ (ns.sys ~ '\\n\\n' if ns.sys and loop.first) "
          "~ m.content ~ '[/INST]' }}{%- else -%}{{ ' ' ~ m.content ~ eos_token }}{%- endif -%}")},
    {"mistral-v7", "{{ bos_token }}"
     LOOP("{%- if m.role == 'system' -%}{{ '[SYSTEM_PROMPT]' ~ m.content ~ '[/SYSTEM_PROMPT]' }}"
          "{%- elif m.role == 'user' -%}{{ '[INST]' ~ m.content ~ '[/INST]' }}"
          "{%- else -%}{{ m.content ~ eos_token }}{%- endif -%}")},
    {"phi3", LOOP("{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}") PROMPT("'<|assistant|>\\n'")},
    {"phi4", LOOP("{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}")
     PROMPT("'<|im_start|>assistant<|im_sep|>'")},
    {"zephyr", LOOP("{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}") PROMPT("'<|assistant|>\\n'")},
    {"deepseek", "{{ bos_token }}"
     LOOP("{%- if m.role == 'user' -%}{{ '<｜User｜>' + m.content }}{%- elif m.role == 'assistant' -%}"
          "{{ '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' }}"
          "{%- else -%}{{ m.content }}{%- endif -%}")
     PROMPT("'<｜Assistant｜>'")},
    {"deepseek-v2", "{{ bos_token }}"
     LOOP("{%- if m.role == 'user' -%}{{ 'User: ' + m.content + '\\n\\n' }}{%- elif m.role == 'assistant' -%}"
          "{{ 'Assistant: ' + m.content + eos_token }}{%- else -%}{{ m.content + '\\n\\n' }}{%- endif -%}")
     PROMPT("'Assistant:'")},
    {"command-r", "{{ bos_token }}"
     LOOP("{{ '<|START_OF_TURN_TOKEN|>' + {'system': '<|SYSTEM_TOKEN|>', 'user': '<|USER_TOKEN|>', 'assistant': "
          "'<|CHATBOT_TOKEN|>'}.get(m.role, '<|SYSTEM_TOKEN|>') + m.content | trim + '<|END_OF_TURN_TOKEN|>' }}")
     PROMPT("'<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'")},
    {"granite", LOOP("{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\\n' }}")
     PROMPT("'<|start_of_role|>assistant<|end_of_role|>'")},
    {"glm4", "[gMASK]<sop>" LOOP("{{ '<|' + m.role + '|>\\n' + m.content }}") PROMPT("'<|assistant|>\\n'")},
    {"vicuna", FIRST_SYSTEM "{%- if ns.sys -%}{{ ns.sys + '\\n\\n' }}{%- endif -%}"
     LOOP("{%- if m.role == 'user' -%}{{ 'USER: ' + m.content + '\\n' }}{%- else -%}"
          "{{ 'ASSISTANT: ' + m.content + eos_token + '\\n' }}{%- endif -%}") PROMPT("'ASSISTANT:'")},
    {"alpaca", FIRST_SYSTEM "{%- if ns.sys -%}{{ ns.sys + '\\n\\n' }}{%- endif -%}"
     LOOP("{%- if m.role == 'user' -%}{{ '### Instruction:\\n' + m.content + '\\n\\n' }}{%- else -%}"
          "{{ '### Response:\\n' + m.content + '\\n\\n' }}{%- endif -%}") PROMPT("'### Response:\\n'")},
};

static const struct { const char *name, *is; } aliases[] = {
    {"gemma2", "gemma"}, {"gemma3", "gemma"}, {"llama-2", "llama2"}, {"llama-3", "llama3"}, {"llama3.1", "llama3"},
         {"qwen", "chatml"},
    {"phi-3", "phi3"}, {"phi-4", "phi4"}, {"deepseek3", "deepseek"}, {"deepseek2", "deepseek-v2"}, {"mistral-v1",
         "mistral"}};

const char *chat_builtin_name(size_t i) { return i < sizeof builtins / sizeof builtins[0] ? builtins[i].name : NULL; }

const char *chat_builtin_text(const char *name, size_t *n)
{
    for (size_t i = 0; i < sizeof aliases / sizeof aliases[0]; i++)
        if (!strcmp(aliases[i].name, name))
            name = aliases[i].is;
    for (size_t i = 0; i < sizeof builtins / sizeof builtins[0]; i++)
        if (!strcmp(builtins[i].name, name)) {
            if (n)
                *n = strlen(builtins[i].text);
            return builtins[i].text;
        }
    return NULL;
}
