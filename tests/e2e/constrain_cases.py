"""100 schemas as people write them for tools, forms and configuration, each with a valid instance or two. test_constrain.py makes
many more instances of them by small changes; Python's jsonschema is the judge of each."""
S, I, N, B = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}


def obj(props, required=None, extra=False, **more):
    return {"type": "object", "properties": props, "required": list(props) if required is None else required, "additionalProperties": extra, **more}


def arr(items, **more):
    return {"type": "array", "items": items, **more}


def text(**more):
    return {"type": "string", **more}


CASES = [
    # tools
    ("send_email", obj({"to": arr(text(format="email"), minItems=1), "subject": text(maxLength=78), "body": S, "cc": arr(text(format="email"), uniqueItems=True)}, ["to", "subject", "body"]),
     [{"to": ["a@b.example"], "subject": "Hi", "body": ""}, {"to": ["a@b.example", "c.d@e.example"], "subject": "", "body": "x\ny", "cc": []}]),
    ("create_event", obj({"title": text(minLength=1), "start": text(format="date-time"), "minutes": {"type": "integer", "minimum": 5, "maximum": 1440, "multipleOf": 5}, "guests": arr(S, maxItems=3)}, ["title", "start"]),
     [{"title": "x", "start": "2026-11-28T19:00:00Z", "minutes": 45}, {"title": "Ä", "start": "2026-02-28T23:59:59+01:00", "guests": ["a", "b"]}]),
    ("get_stock", obj({"symbol": text(pattern="^[A-Z]{1,5}(\\.[A-Z])?$"), "range": {"enum": ["1d", "5d", "1mo", "1y"]}}, ["symbol"]), [{"symbol": "IMP"}, {"symbol": "BRK.B", "range": "1y"}]),
    ("run_sql", obj({"query": text(pattern="^SELECT "), "params": arr({"type": ["string", "number", "null"]}), "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 10}}, ["query"]),
     [{"query": "SELECT 1", "params": [1, "a", None, 2.5]}, {"query": "SELECT *\nFROM t", "limit": 1000}]),
    ("edit_file", obj({"path": text(pattern="^/"), "edits": arr(obj({"old": text(minLength=1), "new": S, "all": B}, ["old", "new"]), minItems=1)}), [{"path": "/a/b", "edits": [{"old": "x", "new": "", "all": True}]}]),
    ("shell", obj({"command": arr(S, minItems=1), "timeout": {"type": "integer", "exclusiveMinimum": 0, "maximum": 600}, "env": {"type": "object", "additionalProperties": S}}, ["command"]),
     [{"command": ["ls", "-l"], "timeout": 1, "env": {"A": "b"}}, {"command": [""]}]),
    ("search", obj({"q": text(minLength=2, maxLength=64), "page": {"type": "integer", "minimum": 0}, "sort": {"enum": ["date", "score", None]}, "filters": {"type": "object", "patternProperties": {"^f_": {"type": ["string", "integer"]}}, "additionalProperties": False}}, ["q"]),
     [{"q": "ab", "sort": None, "filters": {"f_a": 1, "f_": "x"}}, {"q": "日本", "page": 0}]),
    ("transfer", obj({"from": text(pattern="^[A-Z]{2}[0-9]{2}[A-Z0-9]{4,11}$"), "amount": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.01, "maximum": 99999.99}, "currency": {"enum": ["EUR", "USD"]}}),
     [{"from": "NL01ABCD0123", "amount": 12.34, "currency": "EUR"}, {"from": "DE99X1Y2", "amount": 0.01, "currency": "USD"}]),
    ("set_light", obj({"room": S, "state": {"oneOf": [{"const": "off"}, obj({"level": {"type": "integer", "minimum": 1, "maximum": 100}, "kelvin": {"type": "integer", "minimum": 2000, "maximum": 6500, "multipleOf": 100}}, ["level"])]}}),
     [{"room": "", "state": "off"}, {"room": "a", "state": {"level": 100, "kelvin": 2700}}]),
    ("no_arguments", obj({}), [{}]),
    ("any_object", {"type": "object"}, [{}, {"a": [1, {"b": None}]}]),
    ("one_of_tools", {"oneOf": [obj({"tool": {"const": "add"}, "args": obj({"a": N, "b": N})}), obj({"tool": {"const": "neg"}, "args": obj({"a": N})}), obj({"tool": {"const": "now"}}, ["tool"])]},
     [{"tool": "add", "args": {"a": 1, "b": -2.5}}, {"tool": "neg", "args": {"a": 0}}, {"tool": "now"}]),
    ("calls_in_order", arr({"anyOf": [obj({"name": {"const": "open"}, "id": I}), obj({"name": {"const": "close"}, "id": I, "force": B}, ["name", "id"])]}, minItems=1, maxItems=4),
     [[{"name": "open", "id": 1}, {"name": "close", "id": 1, "force": False}]]),
    ("thinking_then_answer", obj({"thought": text(maxLength=40), "answer": {"type": ["integer", "string"]}, "confidence": {"type": "number", "minimum": 0, "maximum": 1}}), [{"thought": "t", "answer": 4, "confidence": 0.5}, {"thought": "", "answer": "x", "confidence": 1}]),
    ("extract_people", obj({"people": arr(obj({"name": S, "born": {"anyOf": [text(format="date"), {"type": "null"}]}, "roles": arr({"enum": ["author", "editor", "reader"]}, uniqueItems=True)}))}),
     [{"people": [{"name": "A", "born": "1999-12-31", "roles": ["author", "reader"]}, {"name": "B", "born": None, "roles": []}]}]),
    ("sentiment", obj({"label": {"enum": ["pos", "neg", "neutral"]}, "spans": arr(arr(I, minItems=2, maxItems=2))}), [{"label": "pos", "spans": [[0, 3], [5, -1]]}]),
    ("classification", {"enum": ["spam", "ham", "unsure"]}, ["spam", "unsure"]),
    ("yes_no", {"type": "boolean"}, [True, False]),
    ("score", {"type": "integer", "minimum": 1, "maximum": 10}, [1, 10]),
    ("null_only", {"type": "null"}, [None]),
    # strings
    ("hex_color", text(pattern="^#([0-9a-fA-F]{3}){1,2}$"), ["#fff", "#A0b1C2"]),
    ("slug", text(pattern="^[a-z0-9]+(?:-[a-z0-9]+)*$", maxLength=12), ["a", "ab-1-c"]),
    ("plate", text(pattern="^[A-Z]{1,3}-[A-Z]{1,2} [1-9][0-9]{0,3}$"), ["B-AB 1", "MTK-X 1234"]),
    ("isbn", text(pattern="^(97[89]-)?\\d{1,5}-\\d{1,7}-\\d{1,7}-[\\dX]$"), ["978-3-16-148410-0", "0-8044-2957-X"]),
    ("contains_digit", text(pattern="\\d", minLength=3, maxLength=6), ["ab1", "123456"]),
    ("starts", text(pattern="^ab"), ["ab", "abc"]), ("ends", text(pattern="yz$"), ["yz", "xyz"]),
    ("word_class", text(pattern="^\\w+\\s\\w+$"), ["a b", "x_1\ty"]), ("negated_class", text(pattern="^[^,;]*$"), ["", "a b"]),
    ("alternatives", text(pattern="^(?:GET|POST|PUT) /[a-z/]*( HTTP/1\\.[01])?$"), ["GET /", "POST /a/b HTTP/1.1"]),
    ("lazy", text(pattern="^<.+?>$"), ["<a>", "<a><b>"]),
    ("dot", text(pattern="^.{2,3}$"), ["ab", "日本語"]), ("optional_sign", text(pattern="^[+-]?[0-9]+$"), ["+1", "-12", "3"]),
    ("code_points", text(minLength=2, maxLength=3), ["ab", "😀é", "abc"]), ("empty_only", text(maxLength=0), [""]),
    ("escapes", text(pattern="^[\"\\\\/\\t]+$"), ["\"", "\\/\t"]), ("const_escape", {"const": "a\"b\\c\n\u2028"}, ["a\"b\\c\n\u2028"]),
    ("uuid", text(format="uuid"), ["12345678-1234-1234-1234-123456789abc"]), ("ipv4", text(format="ipv4"), ["0.0.0.0", "255.255.255.255"]),
    ("date", text(format="date"), ["2024-02-29", "1999-12-31"]), ("no_such_words", {"type": "string", "not": {"enum": ["root", "admin"]}, "pattern": "^[a-z]{4,5}$"}, ["user", "roots"]),
    ("two_patterns", {"allOf": [text(pattern="^[a-z]"), text(pattern="[0-9]$"), text(maxLength=5)]}, ["a1", "abcd9"]),
    # numbers
    ("percent", {"type": "number", "minimum": 0, "maximum": 100}, [0, 99.5, 100]), ("open_range", {"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 1}, [0, -0.99, 0.5]),
    ("halves", {"type": "number", "multipleOf": 0.5, "minimum": -2, "maximum": 2}, [-1.5, 0, 2]), ("even", {"type": "integer", "multipleOf": 2}, [0, -4, 100]),
    ("teens", {"type": "integer", "exclusiveMinimum": 12, "exclusiveMaximum": 20}, [13, 19]), ("negative", {"type": "integer", "maximum": -1}, [-1, -100]),
    ("not_zero", {"type": "integer", "not": {"const": 0}}, [1, -1]), ("gap", {"type": "integer", "anyOf": [{"maximum": 3}, {"minimum": 8}]}, [3, 8, -7]),
    ("enum_numbers", {"enum": [1, 2.5, -3]}, [1, 2.5, -3]), ("primes_by_enum", {"type": "integer", "enum": [2, 3, 5, 7]}, [7]), ("big", {"type": "integer", "minimum": 10000000000, "maximum": 99999999999}, [10000000000, 12345678901]),
    ("third_of", {"type": "integer", "multipleOf": 3, "minimum": 100, "maximum": 110}, [102, 108]), ("either_multiple", {"oneOf": [{"type": "integer", "multipleOf": 3}, {"type": "integer", "multipleOf": 5}]}, [3, 5, 9]),
    # arrays
    ("pair", {"type": "array", "prefixItems": [S, I], "items": False, "minItems": 2}, [["a", 1]]), ("head_and_numbers", {"type": "array", "prefixItems": [{"enum": ["sum", "max"]}], "items": N, "minItems": 2}, [["sum", 1, 2.5]]),
    ("two_to_three", arr(B, minItems=2, maxItems=3), [[True, False], [True, True, True]]), ("unique_words", arr({"enum": ["a", "b", "c"]}, uniqueItems=True), [[], ["c", "a"]]),
    ("unique_numbers", arr({"type": "integer", "minimum": 0, "maximum": 5}, uniqueItems=True, minItems=2), [[0, 5]]), ("unique_pairs", arr(arr(I, minItems=2, maxItems=2), uniqueItems=True, maxItems=3), [[[1, 2], [2, 1]]]),
    ("has_admin", arr(text(pattern="^[a-z]+$"), contains={"const": "admin"}), [["admin"], ["a", "admin", "b"]]), ("exactly_two_big", arr(I, contains={"minimum": 10}, minContains=2, maxContains=2), [[10, 1, 11]]),
    ("no_null", arr({"not": {"type": "null"}}), [[], [1, "a", {}]]), ("nested", arr(arr(arr(I, maxItems=2), maxItems=2), maxItems=2), [[], [[[1]], []]]), ("legacy_tuple", {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [S, I], "additionalItems": B}, [["a"], ["a", 1, True]]),
    ("mixed", arr({"anyOf": [I, S, {"type": "null"}]}), [[1, "a", None]]), ("matrix", arr(arr(N, minItems=3, maxItems=3), minItems=1), [[[1, 2, 3], [0.5, 0, -1]]]), ("empty_array", arr({}, maxItems=0), [[]]),
    # objects
    ("closed", obj({"a": I, "b": S}, ["a"]), [{"a": 1}, {"a": 1, "b": ""}]), ("open", obj({"a": I}, ["a"], True), [{"a": 1}, {"a": 0, "z": [None]}]), ("typed_rest", obj({"id": I}, ["id"], S), [{"id": 1, "x": "y"}]),
    ("by_pattern", {"type": "object", "patternProperties": {"^x-": S, "^[0-9]+$": I}, "additionalProperties": False}, [{}, {"x-a": "b", "12": 3}]), ("pattern_and_name", {"type": "object", "properties": {"ab": {"minimum": 5}}, "patternProperties": {"^a": I}}, [{"ab": 5, "ac": 1, "b": "z"}]),
    ("key_shape", {"type": "object", "propertyNames": {"pattern": "^[A-Z_]{1,4}$"}, "additionalProperties": I}, [{"A": 1, "B_C": 2}]), ("key_length", {"type": "object", "propertyNames": {"minLength": 2}, "maxProperties": 2}, [{"ab": 1}, {}]),
    ("few", {"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": B}, [{"a": True}, {"a": True, "b": False}]), ("card_needs_cvv", {"type": "object", "properties": {"card": S, "cvv": S, "cash": B}, "dependentRequired": {"card": ["cvv"]}, "additionalProperties": False}, [{"card": "1", "cvv": "2"}, {"cash": True}]),
    ("dependent_shape", {"type": "object", "properties": {"a": I, "b": I}, "dependentSchemas": {"a": {"required": ["b"], "properties": {"b": {"minimum": 10}}}}, "additionalProperties": False}, [{"a": 1, "b": 10}, {"b": 3}]),
    ("old_dependencies", {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {"a": I, "b": I, "c": I}, "dependencies": {"a": ["b"], "c": {"properties": {"a": {"minimum": 3}}}}, "additionalProperties": False}, [{"a": 1, "b": 2}, {"c": 1, "a": 3, "b": 0}]),
    ("forbidden", obj({"a": I, "never": False}, ["a"], True), [{"a": 1}, {"a": 1, "b": 2}]), ("at_least_one_of", {"type": "object", "properties": {"mail": S, "phone": S}, "anyOf": [{"required": ["mail"]}, {"required": ["phone"]}], "additionalProperties": False}, [{"mail": "a"}, {"mail": "a", "phone": "b"}]),
    ("exactly_one_of", {"type": "object", "properties": {"id": I, "name": S}, "oneOf": [{"required": ["id"]}, {"required": ["name"]}], "additionalProperties": False}, [{"id": 1}, {"name": "a"}]), ("not_both", {"type": "object", "properties": {"a": I, "b": I}, "not": {"required": ["a", "b"]}, "additionalProperties": False}, [{}, {"a": 1}, {"b": 1}]),
    ("odd_keys", obj({"a b": I, "é\"": I, "": I}), [{"a b": 1, "é\"": 2, "": 3}]), ("prefix_keys", obj({"a": I, "ab": I, "abc": I}, ["ab"]), [{"ab": 1}, {"abc": 1, "ab": 2, "a": 3}]),
    # conditions and references
    ("postcode", {"type": "object", "properties": {"c": {"enum": ["US", "NL"]}, "p": S}, "required": ["c", "p"], "if": {"properties": {"c": {"const": "US"}}}, "then": {"properties": {"p": {"pattern": "^\\d{5}$"}}}, "else": {"properties": {"p": {"pattern": "^\\d{4} [A-Z]{2}$"}}}, "additionalProperties": False}, [{"c": "US", "p": "12345"}, {"c": "NL", "p": "1234 AB"}]),
    ("then_only", {"type": "object", "properties": {"n": I, "why": S}, "required": ["n"], "if": {"properties": {"n": {"minimum": 10}}}, "then": {"required": ["why"]}, "additionalProperties": False}, [{"n": 9}, {"n": 10, "why": ""}]),
    ("binary_tree", {"$defs": {"t": {"anyOf": [{"type": "null"}, obj({"l": {"$ref": "#/$defs/t"}, "v": I, "r": {"$ref": "#/$defs/t"}})]}}, "$ref": "#/$defs/t"}, [None, {"l": None, "v": 1, "r": {"l": None, "v": 2, "r": None}}]),
    ("expression", {"$defs": {"e": {"oneOf": [N, {"type": "array", "prefixItems": [{"enum": ["+", "*"]}, {"$ref": "#/$defs/e"}, {"$ref": "#/$defs/e"}], "items": False, "minItems": 3}]}}, "$ref": "#/$defs/e"}, [1, ["+", 1, ["*", 2, 3.5]]]),
    ("menu", {"$id": "https://example.com/menu", "type": "object", "properties": {"title": S, "items": arr({"$ref": "https://example.com/menu"})}, "required": ["title"], "additionalProperties": False}, [{"title": "a"}, {"title": "a", "items": [{"title": "b", "items": []}]}]),
    ("anchors", {"$defs": {"p": {"$anchor": "pos", "type": "integer", "minimum": 1}}, **obj({"x": {"$ref": "#pos"}, "y": {"$ref": "#pos"}})}, [{"x": 1, "y": 2}]), ("ref_with_more", {"$defs": {"s": text(maxLength=5)}, **obj({"a": {"$ref": "#/$defs/s", "minLength": 2}})}, [{"a": "ab"}]),
    ("extended", {"$defs": {"base": {"type": "object", "properties": {"id": I}, "required": ["id"]}}, "allOf": [{"$ref": "#/$defs/base"}], "properties": {"name": S}, "required": ["name"]}, [{"id": 1, "name": ""}]), ("impossible_branch", {"anyOf": [{"allOf": [I, S]}, B]}, [True]),
    ("deep_any", {"type": "object", "properties": {"v": {"anyOf": [obj({"k": {"const": 1}, "x": I}), obj({"k": {"const": 2}, "x": S}), obj({"k": {"const": 3}, "x": arr(B)})]}}, "required": ["v"]}, [{"v": {"k": 1, "x": 5}}, {"v": {"x": "a", "k": 2}}, {"v": {"k": 3, "x": [True]}}]),
    ("type_list_with_rules", {"type": ["string", "integer", "array"], "minLength": 2, "minimum": 5, "minItems": 1}, ["ab", 5, [None]]), ("enum_objects", {"enum": [{"a": 1}, {"a": 1, "b": [2]}, [], "x"]}, [{"a": 1}, {"b": [2], "a": 1}, []]),
    ("nested_not", {"type": "object", "properties": {"a": {"not": {"type": "object", "required": ["x"]}}}, "required": ["a"], "additionalProperties": False}, [{"a": 1}, {"a": {"y": 1}}]), ("true_and_false", obj({"any": True, "some": {}}, []), [{"any": [1]}, {"some": None, "any": 0}]),
    ("settings", obj({"theme": {"enum": ["dark", "light"]}, "font": obj({"size": {"type": "integer", "minimum": 6, "maximum": 72}, "family": S}, ["size"]), "plugins": {"type": "object", "additionalProperties": {"type": ["boolean", "object"]}}}, ["theme"]), [{"theme": "dark", "font": {"size": 12}, "plugins": {"a": True, "b": {}}}]),
]
