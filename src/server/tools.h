/* tools: what requests say about tools, in both protocols, and what follows from it for the prompt and the answer.
 * Workers. */
#ifndef IMP_SERVER_TOOLS_H
#define IMP_SERVER_TOOLS_H

#include "server/fields.h"

/* Rows of OpenAI's chat. */
bool field_tools(ask *a, const field *f, json_t *v);
bool field_tool_choice(ask *a, const field *f, json_t *v);
/* Row of Anthropic's. */
bool field_tool_choice_anthropic(ask *a, const field *f, json_t *v);
/* Anthropic's tools to OpenAI's form; what is made hangs on doc. */
bool tools_convert(ask *a, json_t *tools, json_t *doc);
/* Do the choice and the tools go together? Afterwards a->tools is what the model is shown. */
bool tools_settle(ask *a);
/* Behind the rendered prompt: the beginning of a call that must come, its constraint, and the parsers of
 * the choices. */
bool tools_prompt(gen *g);
/* Makes a message about the schema of a forced call one about the tool: its name, and the place in its own schema. */
void tools_explain(const gen *g, char *message, size_t size);

#endif
