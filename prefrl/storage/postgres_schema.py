"""The tables of stores in Postgres: those of `schema.py`, with the run in every key.

Tables are in the schema `prefrl`. A connection serves one run: it sees `prefrl_run`, a view of each
table with the rows of that run alone, so that the same SQL serves both kinds of stores.
"""

from __future__ import annotations

VERSION = 2

RUN = "current_setting('prefrl.run')::integer"
QUERY = 'round integer NOT NULL\n"index" integer NOT NULL'
OF_QUERY = 'FOREIGN KEY (run, round, "index") REFERENCES prefrl.query'
OF_SEGMENT = "FOREIGN KEY (run, segment) REFERENCES prefrl.segment"
OF_ROUND = "FOREIGN KEY (run, round) REFERENCES prefrl.round"
TEXT = 'text COLLATE "C"'  # in the order of its bytes, as SQLite has it

# By name: the columns beside `run`, and the constraints. `schema.py` says what they hold.
TABLES = {
    "round": (
        "round integer NOT NULL\nanswers_through bigint NOT NULL", "PRIMARY KEY (run, round)"
    ),
    "segment": (
        f"id {TEXT} NOT NULL\ntask {TEXT} NOT NULL\nsource {TEXT} NOT NULL",
        "PRIMARY KEY (run, id)",
    ),
    "array": (
        f"segment {TEXT} NOT NULL\nname {TEXT} NOT NULL\ndtype text NOT NULL\nshape text NOT NULL\n"
        "data bytea NOT NULL",
        f"PRIMARY KEY (run, segment, name), {OF_SEGMENT}",
    ),
    "picture": (
        f"segment {TEXT} NOT NULL\nwidth integer NOT NULL\nheight integer NOT NULL\n"
        "columns integer NOT NULL\nevery integer NOT NULL\ndata bytea NOT NULL",
        f"PRIMARY KEY (run, segment), {OF_SEGMENT}",
    ),
    "query": (
        f"{QUERY}\nkind text NOT NULL\nquestion text NOT NULL\nsegments json NOT NULL\n"
        "withdrawn text\nopen boolean NOT NULL DEFAULT true\n"
        "labelled boolean NOT NULL DEFAULT false\ndecided boolean NOT NULL DEFAULT false\n"
        "aspect text NOT NULL DEFAULT ''\npriority integer NOT NULL DEFAULT 0",
        f'PRIMARY KEY (run, round, "index"), {OF_ROUND}',
    ),
    "answer": (
        f"id bigint NOT NULL\n{QUERY}\nkind text NOT NULL\nvalue text NOT NULL\n"
        f"decisive boolean NOT NULL\nteacher {TEXT} NOT NULL\n"
        "shown_at double precision NOT NULL\nanswered_at double precision NOT NULL\nuuid text\n"
        "repeat boolean NOT NULL\nsuperseded bigint\ngold boolean NOT NULL DEFAULT false",
        f"PRIMARY KEY (run, id), UNIQUE (run, uuid), {OF_QUERY}",
    ),
    "tally": (
        "asked integer NOT NULL DEFAULT 0\nanswered integer NOT NULL DEFAULT 0\n"
        "decisive integer NOT NULL DEFAULT 0\npending integer NOT NULL DEFAULT 0\n"
        "clips integer NOT NULL DEFAULT 0\nseconds double precision NOT NULL DEFAULT 0",
        "PRIMARY KEY (run)",
    ),
    "lease": (
        f"{QUERY}\nteacher text NOT NULL\ntab text NOT NULL\nsince double precision NOT NULL\n"
        "until double precision NOT NULL",
        f'PRIMARY KEY (run, round, "index"), {OF_QUERY}',
    ),
    "repeat": (
        f"{QUERY}\nteacher text NOT NULL", f'PRIMARY KEY (run, round, "index", teacher), {OF_QUERY}'
    ),
    "gold": (
        f"{QUERY}\nclips text NOT NULL\nkind text NOT NULL\nvalue text NOT NULL\n"
        f"teacher {TEXT} NOT NULL",
        f'PRIMARY KEY (run, round, "index"), UNIQUE (run, clips), {OF_QUERY}',
    ),
    "gold_asked": (
        f"{QUERY}\nteacher text NOT NULL", f'PRIMARY KEY (run, round, "index", teacher), {OF_QUERY}'
    ),
    "trainer": (
        "epoch integer NOT NULL\nprocess bigint\nstart text NOT NULL\nscope text NOT NULL\n"
        "host text NOT NULL\nsince double precision NOT NULL\nseen double precision NOT NULL",
        "PRIMARY KEY (run)",
    ),
    "demonstration": (
        "id bigint NOT NULL\nteacher text NOT NULL\nprompt text NOT NULL\nresponse text\n"
        "at double precision NOT NULL\nuuid text",
        "PRIMARY KEY (run, id), UNIQUE (run, uuid)",
    ),
    "true_reward": (
        f"segment {TEXT} NOT NULL\nrewards bytea NOT NULL",
        f"PRIMARY KEY (run, segment), {OF_SEGMENT}",
    ),
    "aspect_reward": (
        f"segment {TEXT} NOT NULL\naspect text NOT NULL\nrewards bytea NOT NULL",
        f"PRIMARY KEY (run, segment, aspect), {OF_SEGMENT}",
    ),
    "true_return": (
        "round integer NOT NULL\nmean double precision NOT NULL",
        f"PRIMARY KEY (run, round), {OF_ROUND}",
    ),
    # What others need of the run folder: configuration, environment, model, status, metrics, key.
    "file": (
        "name text NOT NULL\ndata bytea NOT NULL\nat double precision NOT NULL",
        "PRIMARY KEY (run, name)",
    ),
}  # fmt: skip
COUNTING = (
    "CREATE INDEX standing_answer ON prefrl.answer "
    "(run, teacher, kind, id, repeat, gold, round, superseded) "
    "WHERE superseded IS NULL AND kind <> 'retraction'",
    "CREATE INDEX withdrawn_query ON prefrl.query (run, withdrawn, round) "
    "WHERE withdrawn IS NOT NULL",
)
GOLD_INDICES = (
    "CREATE INDEX gold_answer ON prefrl.answer (run, teacher, id) WHERE gold",
    "CREATE INDEX broken_answer ON prefrl.answer (run, round, \"index\") WHERE kind = 'broken'",
)
INDICES = (
    'CREATE INDEX open_query ON prefrl.query (run, round, "index") WHERE open',
    'CREATE INDEX answer_of_query ON prefrl.answer (run, round, "index")',
    *COUNTING,
    "CREATE INDEX segment_of_task ON prefrl.segment (run, task)",
    *GOLD_INDICES,
)
# A run's writers come one at a time, so the ids of its answers are in the order of their commits.
NUMBERED = """
CREATE FUNCTION prefrl.numbered_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF new.id IS NULL THEN
        SELECT coalesce(max(id), 0) + 1 INTO new.id FROM prefrl.{table} WHERE run = new.run;
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER numbered BEFORE INSERT ON prefrl.{table}
    FOR EACH ROW EXECUTE FUNCTION prefrl.numbered_{table}();
"""
TRIGGERS = """
CREATE FUNCTION prefrl.asked() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE prefrl.tally SET asked = asked + 1, pending = pending + new.open::integer
    WHERE run = new.run;
    RETURN NULL;
END $$;
CREATE TRIGGER asked AFTER INSERT ON prefrl.query FOR EACH ROW WHEN (new.round >= 0)
    EXECUTE FUNCTION prefrl.asked();
CREATE FUNCTION prefrl.tallied() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE prefrl.tally SET
        answered = answered + new.labelled::integer - old.labelled::integer,
        decisive = decisive + new.decided::integer - old.decided::integer,
        pending = pending + new.open::integer - old.open::integer,
        clips = clips + (new.labelled::integer - old.labelled::integer)
            * json_array_length(new.segments)
    WHERE run = new.run;
    RETURN NULL;
END $$;
CREATE TRIGGER tallied AFTER UPDATE OF open, labelled, decided ON prefrl.query
    FOR EACH ROW WHEN (new.round >= 0) EXECUTE FUNCTION prefrl.tallied();
"""
ANSWERED = """
CREATE OR REPLACE FUNCTION prefrl.answered() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE prefrl.answer SET superseded = new.id
    WHERE run = new.run AND round = new.round AND "index" = new."index" AND teacher = new.teacher
        AND repeat = new.repeat AND gold = new.gold AND superseded IS NULL AND id < new.id;
    IF new.kind IN ('broken', 'retraction') OR NOT (new.repeat OR new.gold) THEN
        UPDATE prefrl.query q SET open = q.withdrawn IS NULL AND s.answers = 0,
            labelled = s.labelled AND NOT s.broken, decided = s.decided AND NOT s.broken
        FROM (SELECT count(*) AS answers, coalesce(bool_or(kind <> 'skip'), false) AS labelled,
                coalesce(bool_or(decisive), false) AS decided,
                coalesce(bool_or(kind = 'broken'), false) AS broken
            FROM prefrl.answer WHERE run = new.run AND round = new.round AND "index" = new."index"
                AND superseded IS NULL AND kind <> 'retraction'
                AND (kind = 'broken' OR NOT (repeat OR gold))) s
        WHERE q.run = new.run AND q.round = new.round AND q."index" = new."index";
    END IF;
    IF new.round >= 0 THEN
        UPDATE prefrl.tally
        SET seconds = seconds + greatest(0, least(new.answered_at - new.shown_at, 120))
        WHERE run = new.run;
    END IF;
    RETURN NULL;
END $$;
"""
AT_ANSWER = """
CREATE TRIGGER answered AFTER INSERT ON prefrl.answer
    FOR EACH ROW EXECUTE FUNCTION prefrl.answered();
"""
# SQLite has it; of a path "$.name" alone, and as text.
JSON_EXTRACT = (
    "CREATE FUNCTION prefrl.json_extract(value text, path text) RETURNS text LANGUAGE sql "
    "IMMUTABLE AS $$ SELECT value::json ->> substr(path, 3) $$"
)
STANDING = (
    "CREATE OR REPLACE VIEW prefrl_run.standing AS SELECT * FROM prefrl_run.answer "
    "WHERE superseded IS NULL AND kind <> 'retraction'"
)


def _of_table(name: str) -> list[str]:
    """Return what makes a table, and its view of one run."""
    columns, constraints = TABLES[name]
    return [
        f'CREATE TABLE prefrl."{name}" (run integer NOT NULL DEFAULT {RUN} REFERENCES '
        f"prefrl.run ON DELETE CASCADE, {', '.join(columns.split(chr(10)))}, {constraints})",
        _view(name),
    ]


def _view(name: str) -> str:
    shown = ", ".join(line.split()[0] for line in TABLES[name][0].split("\n"))
    return (
        f'CREATE OR REPLACE VIEW prefrl_run."{name}" AS SELECT {shown} FROM prefrl."{name}" '
        f"WHERE run = {RUN}"
    )


def creation() -> str:
    """Return what makes all tables, views and triggers in a database."""
    statements = [
        "CREATE SCHEMA prefrl",
        "CREATE SCHEMA prefrl_run",
        "CREATE TABLE prefrl.version (version integer NOT NULL)",
        f"INSERT INTO prefrl.version VALUES ({VERSION})",
        f"CREATE TABLE prefrl.run (id serial PRIMARY KEY, name {TEXT} NOT NULL UNIQUE)",
        *(statement for name in TABLES for statement in _of_table(name)),
    ]
    numbered = [NUMBERED.format(table=table) for table in ("answer", "demonstration")]
    rest = [*INDICES, STANDING, JSON_EXTRACT, *numbered, TRIGGERS, ANSWERED, AT_ANSWER]
    return ";\n".join([*statements, *rest])


# What brings the tables of a version up to the next one.
MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE prefrl.query ADD COLUMN priority integer NOT NULL DEFAULT 0",
        "ALTER TABLE prefrl.answer ADD COLUMN gold boolean NOT NULL DEFAULT false",
        *(_view(name) for name in ("query", "answer")),
        STANDING,
        *(statement for name in ("gold", "gold_asked") for statement in _of_table(name)),
        "DROP INDEX prefrl.answer_that_stands",
        *COUNTING,
        *GOLD_INDICES,
        ANSWERED,
    ),
}
