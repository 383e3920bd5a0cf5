"""What annotation tools export: tasks of Label Studio, records of Argilla."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prefrl.storage.jsonl import field, short
from prefrl.storage.texts.conversations import is_messages
from prefrl.storage.texts.examples import Example
from prefrl.storage.texts.forms import PROMPTS, REPLIES, goes_on, judged, read_form, task_of

LABEL_STUDIO, ARGILLA = "tasks of Label Studio", "records of Argilla"
# Questions whose answer is a better reply; to any other, text is a remark.
WRITTEN = (*REPLIES, "correction", "rewrite", "chosen")
ASKED = (*PROMPTS, "instruction", "context", "conversation", "history")


def read_tool(row: dict[str, Any], chat: bool | None) -> list[Example] | None:
    """Return what people answered in a row of a tool's export; None if it is of no tool.

    Raises:
        ValueError: it is of a tool, but says not what of prefrl's forms was answered.
    """
    if "data" in row and ("annotations" in row or "predictions" in row):
        return list(_label_studio(row, chat))
    if "annotation_id" in row and "annotator" in row:  # its JSON-MIN and CSV
        return list(_label_studio_flat(row, chat))
    if "fields" in row and ("responses" in row or "suggestions" in row):
        return list(_argilla(row, chat))
    if any(name.endswith(".responses") for name in row):  # records.to_datasets()
        return list(_argilla(_nested(row), chat))
    return None


def _label_studio(row: dict[str, Any], chat: bool | None) -> Iterator[Example]:
    data = field(row, "data", dict)
    for annotation in field(row, "annotations", list, []):
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        by = annotation.get("completed_by")
        by = by.get("email") or by.get("id") if isinstance(by, dict) else by
        for result in field(annotation, "result", list, []):
            value = result.get("value") if isinstance(result, dict) else None
            if isinstance(value, dict):
                example = _result(data, result, value, chat)
                yield replace(example, teacher="" if by is None else str(by))


def _result(
    data: dict[str, Any], result: dict[str, Any], value: dict[str, Any], chat: bool | None
) -> Example:
    """Return what one region of an annotation says of the data of its task."""
    if "selected" in value:
        return _better(LABEL_STUDIO, data, value["selected"], chat, result.get("to_name"))
    if "ranker" in value:
        return _ranked(data, value["ranker"], chat)
    if "text" in value and result.get("type") in (None, "textarea"):
        written = value["text"]
        return _written(LABEL_STUDIO, data, written[0] if isinstance(written, list) else written,
                        chat)  # fmt: skip
    raise ValueError(
        f"its annotation is of type {result.get('type')!r}; expected one of Pairwise, Ranker or "
        "TextArea"
    )


def _label_studio_flat(row: dict[str, Any], chat: bool | None) -> Iterator[Example]:
    """Read JSON-MIN, in which what was answered stands beside the data."""
    for name, value in row.items():
        said = value.get("selected") if isinstance(value, dict) else value
        if said in ("left", "right"):
            data = {n: v for n, v in row.items() if n not in (name, "annotator", "annotation_id")}
            example = _better(LABEL_STUDIO, data, said, chat, None)
            yield replace(example, teacher=str(row["annotator"]))


def _better(form: str, data: dict[str, Any], said: Any, chat: bool | None, between: Any) -> Example:
    """Return which of the two texts in some data was selected.

    Args:
        form: of the row.
        data: what was shown.
        said: left, right, or the name of one.
        chat: see `read_form`.
        between: names of the two in Label Studio's own words, which are often those of the data.
    """
    prompt, names = _asked(data), _replies(data)
    if isinstance(between, str):
        between = between.split(",")
    if isinstance(between, list) and len(between) == 2 and all(n in data for n in between):
        names = between
    if len(names) != 2:
        raise ValueError(
            f"beside {prompt!r} its data has the texts {names}; expected two of them, those that "
            "were compared"
        )
    left, right = names
    verdict = judged({"left": left, "right": right}.get(str(said), said), left, right)
    if verdict is None:
        raise ValueError(f"selected is {short(said)}; expected left, right or one of {names}")
    kind, value = verdict
    return _judgement(form, data, names, kind, value, chat)


def _ranked(data: dict[str, Any], ranked: Any, chat: bool | None) -> Example:
    """Return an order of the items in some data, of which each has an id and a text."""
    if isinstance(ranked, dict):
        filled = [order for order in ranked.values() if order]
        if len(filled) != 1:
            raise ValueError(f"it sorts into {len(filled)} buckets; expected an order in one")
        (ranked,) = filled
    items = next((v for v in data.values() if isinstance(v, list) and _are_items(v)), [])
    texts = {str(item["id"]): str(item.get("body", item.get("text", ""))) for item in items}
    if not isinstance(ranked, list) or not set(map(str, ranked)) <= texts.keys():
        raise ValueError(f"it ranks {short(ranked)}; expected ids of the items {[*texts]}")
    order = {"order": [[index] for index in range(len(ranked))]}
    texts = {str(name): texts[str(name)] for name in ranked}
    return _judgement(LABEL_STUDIO, data | texts, [*texts], "ranking", order, chat)


def _are_items(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, dict) and "id" in item for item in items)


def _judgement(
    form: str,
    data: dict[str, Any],
    names: list[str],
    kind: Any,
    value: dict[str, Any],
    chat: bool | None,
) -> Example:
    asked = _asked(data)
    prompt = data.get(asked)
    pair = [goes_on(prompt, {name: data[name]}, name, chat) for name in names]
    return Example(form, kind, tuple(pair), task_of(prompt, pair), value, tuple(names))


def _written(form: str, data: dict[str, Any], text: Any, chat: bool | None) -> Example:
    row = {"prompt": data.get(_asked(data)), "completion": text}
    return replace(read_form(row, chat), form=form)


def _asked(data: dict[str, Any]) -> str:
    """Return the name of what was replied to."""
    found = next((name for name in ASKED if name in data), None)
    if found is None:
        raise ValueError(f"its data has {sorted(data)}; expected a 'prompt' among them")
    return found


def _replies(data: dict[str, Any]) -> list[str]:
    """Return the names of the texts in some data but for the prompt, in their order."""
    asked = _asked(data)
    texts = (str, list, dict)
    return [n for n, v in data.items() if n != asked and isinstance(v, texts) and _is_text(v)]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (is_messages(value) and "role" in str(value))


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    """Return a flat record of Argilla, as a row of `datasets` has it, as a nested one."""
    responses: dict[str, list[dict[str, Any]]] = {}
    for name in row:
        if name.endswith(".responses"):
            users, question = row.get(f"{name}.users") or [], name.removesuffix(".responses")
            status = row.get(f"{name}.status") or []
            responses[question] = [
                {"value": value, "user_id": _at(users, index), "status": _at(status, index)}
                for index, value in enumerate(row[name] or [])
            ]
    ours = ("id", "status", "_server_id")
    fields = {n: v for n, v in row.items() if "." not in n and n not in ours}
    return {"fields": fields, "responses": responses}


def _at(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else None


def _argilla(row: dict[str, Any], chat: bool | None) -> Iterator[Example]:
    """Yield what each person said to each question; suggestions are a model's, and left out."""
    data = {name: v for name, v in field(row, "fields", dict).items() if v is not None}
    for question, responses in field(row, "responses", dict, {}).items():
        for response in responses or []:
            if not isinstance(response, dict) or response.get("status") in ("discarded", "draft"):
                continue
            value, by = response.get("value"), response.get("user_id")
            if (example := _response(data, question, value, chat)) is not None:
                yield replace(example, teacher="" if by is None else str(by))


def _response(data: dict[str, Any], question: str, value: Any, chat: bool | None) -> Example | None:
    """Return what a response says; None if it answers another kind of question."""
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        ranks: dict[Any, list[str]] = {}
        for entry in value:  # [{"value": "response-1", "rank": 1}, …], equals of one rank
            ranks.setdefault(entry.get("rank"), []).append(str(entry.get("value")))
        groups = [ranks[rank] for rank in sorted(ranks, key=str)]
    elif isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        groups = [[name] for name in value]
    elif isinstance(value, str):
        names = _replies(data)
        if value in names or judged(value, None, "") or value in ("left", "right"):
            return _better(ARGILLA, data, value, chat, None)
        return _written(ARGILLA, data, value, chat) if question in WRITTEN else None
    elif isinstance(value, int | float) and len(names := _replies(data)) == 1:
        return _judgement(ARGILLA, data, names, "score", {"score": float(value)}, chat)
    else:
        return None
    names = [name for group in groups for name in group]
    if not all(name in data for name in names):
        raise ValueError(
            f"it ranks {short(names)}; expected names of its fields, which are {sorted(data)}"
        )
    index = {name: number for number, name in enumerate(names)}
    order = {"order": [[index[name] for name in group] for group in groups]}
    return _judgement(ARGILLA, data, names, "ranking", order, chat)
