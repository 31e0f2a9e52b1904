"""The prompt and the answer of every form of a row, and the rows that are refused."""

import json
from pathlib import Path

import pytest

from montessori.data import rows as data
from montessori.errors import InputError
from montessori.settings.data import DataSource

SHARED = Path(__file__).resolve().parents[2] / "../shared"


def turn(role: object, content: object, **more: object) -> dict:
    return {"role": role, "content": content, **more}


def user(content: object, **more: object) -> dict:
    return turn("user", content, **more)


def assistant(content: object, **more: object) -> dict:
    return turn("assistant", content, **more)


def system(content: object) -> dict:
    return turn("system", content)


def said(spelling: str, text: str) -> dict:
    return {"from": spelling, "value": text}


def call(arguments: object, **more: object) -> dict:
    return {"type": "function", "function": {"name": "f", "arguments": arguments}, **more}


CHAT = [user("Name a colour."), assistant("Red.")]
LONG = [system("Be brief."), user("Say hello."), assistant("Hello."), user("And in French?"), assistant("Bonjour.")]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def read_one(tmp_path: Path, row: object, role: str = "reference", **settings: object) -> dict:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (found,) = data.read(DataSource(source=str(path), **settings), role)
    return found


def refused(tmp_path: Path, row: object, role: str = "reference", **settings: object) -> str:
    with pytest.raises(InputError) as error:
        read_one(tmp_path, row, role, **settings)
    assert str(tmp_path / "rows.jsonl") in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"instruction": "Name a colour.", "output": "Red."}, CHAT[:1], "Red."),
        ({"instruction": "Sort:", "input": "b a", "output": "a b"}, [user("Sort: b a")], "a b"),
        ({"instruction": "Sort:", "input": " ", "output": "a b"}, [user("Sort:")], "a b"),
        ({"instruction": "Fix:", "input": "    x\n    y\n", "output": "z"}, [user("Fix:\n    x\n    y\n")], "z"),
        ({"instruction": " Say x.\n", "output": "\n x \n"}, [user(" Say x.\n")], "\n x \n"),
        ({"input": "Name a colour.", "output": "Red."}, CHAT[:1], "Red."),
        ({"prompt": "Name a colour.", "completion": "Red."}, CHAT[:1], "Red."),
        ({"instruction": "x", "prompt": "### x ###", "text": "### x ### y", "output": "y"}, [user("x")], "y"),
        ({"prompt": "Name a colour.", "response": "Red.", "output": ""}, CHAT[:1], "Red."),
        ({"question": "How many?", "answer": "2 + 2\n#### 4"}, [user("How many?")], "2 + 2\n#### 4"),
        ({"query": "How many?", "response": 42}, [user("How many?")], "42"),
        ({"query": "How many?", "response": 4.5}, [user("How many?")], "4.5"),
        ({"instruction": "x", "system": "Be brief.", "output": "y"}, [system("Be brief."), user("x")], "y"),
        ({"system_prompt": "Be brief.", "question": "x", "response": "y"}, [system("Be brief."), user("x")], "y"),
        (
            {
                "instruction": "And in French?",
                "input": "",
                "output": "Bonjour.",
                "system": "Be brief.",
                "history": [["Say hello.", "Hello."]],
            },
            LONG[:4],
            "Bonjour.",
        ),
        (
            {"prompt": "And in French?", "answer": "Bonjour.", "system": "Be brief.", "history": LONG[1:3]},
            LONG[:4],
            "Bonjour.",
        ),
        ({"instruction": "x", "output": "y", "history": '[["a", "b"]]'}, [user("a"), assistant("b"), user("x")], "y"),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, CHAT[:1], "Red."),
        ({"prompt": json.dumps(CHAT[:1]), "completion": json.dumps(CHAT[1:])}, CHAT[:1], "Red."),
        ({"messages": LONG}, LONG[:4], "Bonjour."),
        ({"messages": json.dumps(LONG)}, LONG[:4], "Bonjour."),
        ({"conversation": LONG}, LONG[:4], "Bonjour."),
        ({"dialog": LONG[1:], "system": "Be brief."}, LONG[:4], "Bonjour."),
        ({"chat": [{"speaker": "Human", "text": "x"}, {"speaker": "Bot", "text": " y"}]}, [user("x")], " y"),
        ({"conversations": [said("human", "x"), said("gpt", "y")]}, [user("x")], "y"),
        ({"conversations": [said("system", "s"), said("user", "x"), said("bard", "y")]}, [system("s"), user("x")], "y"),
        ({"messages": [turn("developer", "s"), user("x"), turn("model", "y")]}, [system("s"), user("x")], "y"),
        ({"messages": [user([{"type": "text", "text": "a\n"}, {"text": " b"}, "c"]), assistant("y")]},
         [user("a\n bc")], "y"),
        ({"messages": [user(" x\n"), assistant(" y ")], "prompt": "x"}, [user(" x\n")], " y "),
        ({"messages": LONG, "prompt": "Say hello."}, LONG[:4], "Bonjour."),
        ({"messages": LONG[:4], "output": "Bonjour."}, LONG[:4], "Bonjour."),
        ({"messages": [user("x"), assistant("a", weight=0), user("z"), assistant("y", weight=1)]},
         [user("x"), assistant("a"), user("z")], "y"),
        ({"instruction": "Sort:", "instances": [{"input": "b a", "output": "a b"}]}, [user("Sort: b a")], "a b"),
        ({"instruction": "x", "output": "y", "context": "", "images": [], "source": "web"}, [user("x")], "y"),
    ],
)  # fmt: skip
def test_every_form_gives_its_prompt_and_answer(tmp_path, row, prompt, answer):
    found = read_one(tmp_path, row)
    assert found.get("messages", [user(found["instruction"])]) == prompt
    assert (found["instruction"], found["response"]) == (prompt[-1]["content"], answer)
    assert found.get("answer") is found.get("tools") is None


def test_tool_calls_tools_and_reasoning_are_kept(tmp_path):
    row = {
        "messages": [
            user("x"),
            {"role": "assistant", "content": None, "tool_calls": [call('{"a": 1}', id="c1")]},
            turn("tool", "2", tool_call_id="c1", name="f"),
            assistant("y", reasoning_content="Hm.", refusal=None),
        ],
        "tools": json.dumps(TOOLS),
    }
    found = read_one(tmp_path, row)
    assert found["messages"] == [
        user("x"),
        assistant("", tool_calls=[call({"a": 1}, id="c1")]),
        turn("tool", "2", tool_call_id="c1", name="f"),
    ]
    assert (found["response"], found["answer"]) == ("y", assistant("y", reasoning_content="Hm."))
    assert (found["instruction"], found["tools"]) == ("x", TOOLS)


def test_a_tool_call_is_an_answer(tmp_path):
    flat = {"name": "f", "arguments": {"a": 1}}
    found = read_one(tmp_path, {"messages": [user("x"), assistant(None, tool_calls=[flat])], "tools": TOOLS})
    assert (found["response"], found["answer"]) == ("", assistant("", tool_calls=[call({"a": 1})]))
    steps = [assistant("", tool_calls=[call({"a": 1})]), turn("tool", "2"), assistant("y")]
    found = read_one(tmp_path, {"prompt": "x", "completion": steps})
    assert (found["messages"], found["response"]) == ([user("x"), *steps[:2]], "y")


def test_reasoning_beside_a_response_belongs_to_it(tmp_path):
    found = read_one(tmp_path, {"question": "x", "reasoning_content": "Hm.", "response": "y"})
    assert found["answer"] == assistant("y", reasoning_content="Hm.")


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"frage": "x", "antwort": "y"}, {"instruction": "frage", "response": "antwort"}, ("x", "y")),
        (
            {"a": {"b": "x"}, "answers": {"text": ["y"]}},
            {"instruction": "a.b", "response": "answers.text.0"},
            ("x", "y"),
        ),
        ({"instruction": "x", "context": "c", "response": "y"}, {"input": "context"}, ("x c", "y")),
        ({"instruction": "x", "context": "c", "response": "y"}, {"response": "response"}, ("x", "y")),
        ({"question": "x", "input": "c", "answer": "y"}, {"instruction": "question", "input": "input"}, ("x c", "y")),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, {"response": "chosen"}, ("x", "y")),
        ({"prompt": "x", "chosen": [user("x"), assistant("y")], "rejected": []}, {"response": "chosen"}, ("x", "y")),
        ({"conversations": [said("human", "x")], "chosen": said("gpt", "y")}, {"response": "chosen"}, ("x", "y")),
        ({"turns": CHAT, "instruction": "z"}, {"messages": "turns"}, ("Name a colour.", "Red.")),
        ({"instruction": "a", "output": "b", "q": "x", "r": "y"}, {"instruction": "q", "response": "r"}, ("x", "y")),
        ({"messages": CHAT, "q": "x", "r": "y"}, {"instruction": "q", "response": "r"}, ("x", "y")),
    ],
)
def test_columns_name_the_parts_of_a_row(tmp_path, row, columns, expected):
    found = read_one(tmp_path, row, columns=columns)
    assert (found["instruction"], found["response"]) == expected


def test_columns_name_system_history_tools_and_id_too(tmp_path):
    row = {"rolle": "s", "davor": [["a", "b"]], "instruction": "x", "output": "y", "werkzeuge": TOOLS, "nummer": 7}
    columns = {"system": "rolle", "history": "davor", "tools": "werkzeuge", "id": "nummer"}
    found = read_one(tmp_path, row, columns=columns)
    assert found["messages"] == [system("s"), user("a"), assistant("b"), user("x")]
    assert (found["tools"], found["id"]) == (TOOLS, "7")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"instruction": "no"},
            "the column no, which columns.instruction names, is missing or empty; the row has a, b",
        ),
        ({"messages": "no"}, "the column no, which columns.messages names, is missing or empty; the row has a, b"),
        ({"instruction": "a", "response": "no"}, "lacks an answer (one of the fields no, or"),
        ({"instruction": "a", "response": "b", "system": "no"}, "no row has the column no, which columns.system names"),
    ],
)
def test_a_column_that_is_not_there_is_refused(tmp_path, columns, says):
    assert says in refused(tmp_path, {"a": "x", "b": "y"}, columns=columns)


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"frage": "x", "antwort": "y"}, "columns: {instruction: frage, response: antwort}"),
        ({"id": 1, "target": "y", "source_text": "x"}, "columns: {instruction: source_text, response: target}"),
        ({"thread": [said("human", "x"), said("gpt", "y")]}, "columns: {messages: thread}"),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, "columns: {response: chosen}"),
        ({"conversations": [said("human", "x")], "chosen": said("gpt", "y")}, "columns: {response: chosen}"),
        ({"q: 1": "x", "antwort": "y"}, 'columns: {instruction: "q: 1", response: antwort}'),
        ({"question": "x", "context": "c", "answer": "y"},
         "columns: {instruction: question, response: answer, input: context}"),
        ({"question": "x", "input": "c", "answer": "y"}, "columns: {instruction: question, input: input}"),
        ({"messages": CHAT, "images": ["a.png"]}, "is not read; leave it out with columns: {messages: messages}"),
        ({"messages": CHAT, "functions": [{"name": "f"}]}, "columns: {messages: messages, tools: functions}"),
        ({"prompt": "a", "question": "b", "answer": "y"}, "columns: {instruction: prompt}"),
        ({"question": "x", "response": "a", "answer": "b"}, "columns: {response: response}"),
        ({"messages": CHAT, "output": "Blue."}, "columns: {messages: messages}"),
        ({"messages": CHAT, "instruction": "Name a town."}, "columns: {messages: messages}"),
    ],
)  # fmt: skip
def test_a_refusal_shows_the_setting_that_reads_the_row(tmp_path, row, columns):
    message = refused(tmp_path, row)
    assert columns in message
    assert "rows.jsonl, line 1: " in message


def test_a_refusal_of_an_option_shows_the_option_that_reads_the_row(tmp_path):
    for role, option in (("--data", "--columns"), ("--reference", "--reference-columns")):
        message = refused(tmp_path, {"frage": "x", "antwort": "y"}, role)
        assert message.endswith(f"name yours with {option} instruction=frage,response=antwort")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"output": "x"}, "no instruction and no conversation among the fields output"),
        ({}, "no instruction and no conversation among the fields (none)"),
        ({"messages": None, "output": "x"}, "no instruction and no conversation among the fields"),
        ({"instruction": "  ", "output": "x"}, "the field instruction is empty"),
        ({"instruction": "", "input": "x", "output": "x"}, "the field instruction is empty"),
        ({"instruction": 3, "output": "x"}, "the field instruction is no text but 3"),
        ({"instruction": "x", "input": ["y"], "output": "x"}, 'the field input is no text but ["y"]'),
        ({"instruction": "x", "system": 1, "output": "x"}, "the field system is no text but 1"),
        (["x"], "expected an object with fields such as instruction and response, or messages"),
        ({"instruction": "Say x."}, "lacks an answer (one of the fields response, output, completion, answer, or the"),
        ({"instruction": "Say x.", "output": " "}, "lacks an answer: output is empty (one of"),
        ({"instruction": "Say x.", "output": [3]}, "the field output is no text but [3]"),
        ({"instruction": "Say x.", "output": True}, "the field output is no text but true"),
        ({"instruction": "Say x.", "output": float("nan")}, "the field output is no text but NaN"),
        ({"instruction": "Say x.", "output": {"text": "x"}}, "turn 1 of output is not an object with role"),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, 'element 1 of history is ["a"]; expected [question'),
        ({"instruction": "x", "output": "y", "history": "a"}, 'element 1 of history is "a"; expected [question'),
        ({"instruction": "x", "output": "y", "tools": [1]}, "the field tools is no list of objects but [1]"),
        ({"instruction": "x", "output": "y", "tools": "[1"}, "the field tools is text that is not JSON"),
        ({"instruction": "x", "output": "y", "images": ["a.png"]}, "the field images may belong to the prompt"),
        ({"question": "x", "choices": ["a", "b"], "answer": 1}, "the field choices may belong to the prompt"),
        ({"question": "x", "A": "a", "B": "b", "answer": "A"}, "the field A may belong to the prompt"),
        ({"instruction": "x", "instances": [{}, {}]}, "the field instances is no list of one input and output"),
        ({"messages": "Say x."}, "the field messages is no list of turns"),
        ({"messages": "[{'role': 'user'}]"}, "the field messages is text that is not JSON"),
        ({"messages": {"a": "x"}}, "turn 1 of messages is not an object with role and content"),
        ({"messages": [user("x"), "y"]}, "turn 2 of messages is not an object with role and content"),
        ({"messages": [user("x"), {"role": "assistant"}]}, "turn 2 of messages has no content"),
        ({"messages": [user("x"), assistant(None)]}, "turn 2 of messages has no content"),
        ({"messages": [{"content": "x"}, assistant("y")]}, "turn 1 of messages is not an object with role and content"),
        ({"messages": [turn("nobody", "x"), assistant("y")]}, "turn 1 of messages has the role 'nobody'; expected"),
        ({"messages": [turn(["user"], "x"), assistant("y")]}, "turn 1 of messages has the role ['user']; expected"),
        ({"messages": [user(3), assistant("y")]}, "turn 1 of messages has a content that is no text but 3"),
        ({"messages": [user([{"type": "image_url", "image_url": {}}]), assistant("y")]}, "no text but image_url; only"),
        ({"messages": [user("x"), assistant("y", function_call={"name": "f"})]}, "function_call, which is not read"),
        ({"messages": [user("x"), assistant("y", thinking="Hm.")]}, "name it reasoning_content"),
        ({"messages": [user("x"), assistant(None, tool_calls=[{"a": 1}])]}, 'has the tool call {"a": 1}; expected'),
        ({"messages": [user("x"), assistant(None, tool_calls=[call("{")])]}, "the field arguments is text that is not"),
        ({"messages": [user("x"), assistant("a", weight=1), user("z"), assistant("y")]}, "turn 2 of messages (assi"),
        ({"messages": [user("x"), assistant("y", weight=0.5)]}, "(assistant) has the weight 0.5, but"),
        ({"messages": [user("x"), assistant("y", weight=0)]}, "turn 2 of messages (assistant) has the weight 0, but"),
        ({"messages": [user("x", train=True), assistant("y")]}, "turn 1 of messages (user) has the train true, but"),
        ({"messages": [user("x")]}, "lacks an answer (one of the fields"),
        ({"messages": [user("x"), assistant("y"), system("z")]}, "lacks an answer"),
        ({"messages": [user("x"), assistant(" ")]}, "lacks an answer"),
        ({"messages": [system("x"), assistant("y")]}, "the conversation lacks a user turn, or its last one is empty"),
        ({"messages": [user("x"), user(" "), assistant("y")]}, "the conversation lacks a user turn, or its last one"),
        ({"messages": CHAT, "conversations": LONG}, "the fields messages and conversations differ"),
        ({"messages": CHAT, "history": [["a", "b"]]}, "has both messages and history"),
        ({"messages": LONG, "system": "Be long."}, "the field system and the conversation's system turn differ"),
        ({"prompt": CHAT[:1], "input": "x", "completion": "y"}, "the field prompt is a conversation with a field"),
        ({"prompt": "x", "completion": CHAT}, "the turns in completion do not follow the prompt"),
        ({"instruction": "x", "output": "y\0"}, "a text has a NUL character after 'y'"),
        ({"id": [1], "instruction": "x", "output": "y"}, "the id is no text and no number but [1]"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_as_it_stands_is_refused(tmp_path, row, says):
    good = {"instruction": "Say y.", "response": "y"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*[good] * 16, row, good]))
    with pytest.raises(InputError) as error:
        data.read(DataSource(source=str(path)), "reference")
    assert says in str(error.value)
    assert f"{path}, line 17:" in str(error.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no sample data")
@pytest.mark.parametrize(
    ("file", "columns", "count", "prompt", "answer"),
    [
        ("cases/07-history-and-system-columns/points.jsonl", {}, 3,
         [system("You are a translator."), *LONG[1:4]], "Bonjour."),
        ("cases/25-arrow-file/data-00000-of-00001.arrow", {}, 1, [user("Name a colour.")], "Red."),
        ("cases/28-indentation-of-code/points.jsonl", {}, 1, [user("Fix it:\n    x = 1\n    y = 2\n")], "ok"),
        ("data/preference/dpo_en_300.jsonl", {"response": "chosen"}, 300, None, None),
        ("data/gsm8k/train.jsonl.gz", {}, 7473, None, None),
        ("data/preference/instruction_preference_1100.jsonl", {}, 1100, None, None),
        ("data/seeds/self_instruct_user_oriented_252.jsonl", {}, 252, None, None),
    ],
)  # fmt: skip
def test_real_rows_are_read_as_they_mean(file, columns, count, prompt, answer):
    found = data.read(DataSource(source=str(SHARED / file), columns=columns), "reference")
    assert len(found) == count
    if prompt:
        assert found[0].get("messages", [user(found[0]["instruction"])]) == prompt
        assert found[0]["response"] == answer
