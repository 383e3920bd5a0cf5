"""The tables of the store."""

SCHEMA_VERSION = 7
# The seconds that an answer took; whoever took longer has made a pause.
SECONDS = "max(0, min(answered_at - shown_at, 120))"
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS round (          -- one row a lap, written with its queries
    round           INTEGER PRIMARY KEY,
    answers_through INTEGER NOT NULL        -- the lap's fit saw answers with id up to this
);
CREATE TABLE IF NOT EXISTS segment (
    id     TEXT PRIMARY KEY,
    task   TEXT NOT NULL,                   -- segments of one task may be compared
    source TEXT NOT NULL                    -- policy and round that made it
);
CREATE TABLE IF NOT EXISTS array (          -- what a segment holds, one row an array
    segment TEXT NOT NULL REFERENCES segment,
    name    TEXT NOT NULL,                  -- observations, actions, extras/NAME
    dtype   TEXT NOT NULL,                  -- as numpy spells it, or json for strings
    shape   TEXT NOT NULL,                  -- a JSON list
    data    BLOB NOT NULL,
    PRIMARY KEY (segment, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS picture (        -- of a segment that its extras cannot redraw
    segment TEXT PRIMARY KEY REFERENCES segment,
    width   INTEGER NOT NULL,               -- pixels of one picture
    height  INTEGER NOT NULL,
    columns INTEGER NOT NULL,               -- pictures in a row of the sheet
    every   INTEGER NOT NULL,               -- steps that one picture stands for
    data    BLOB NOT NULL                   -- the sheet, as WebP
);
CREATE TABLE IF NOT EXISTS query (
    round    INTEGER NOT NULL REFERENCES round,
    "index"  INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    question TEXT NOT NULL,
    segments TEXT NOT NULL,                 -- a JSON list of segment ids, left first
    withdrawn TEXT,                         -- why nobody is asked any more: expired, damaged; or
                                            -- only those whom its known answer measures: gold
    open     INTEGER NOT NULL DEFAULT 1,    -- whether it waits for an answer
    labelled INTEGER NOT NULL DEFAULT 0,    -- whether an answer that stands is no skip
    decided  INTEGER NOT NULL DEFAULT 0,    -- whether one that stands prefers a segment
    aspect   TEXT NOT NULL DEFAULT '',      -- what is asked about, where there are several aspects
    priority INTEGER NOT NULL DEFAULT 0,    -- what has more is asked sooner, whatever its round
    PRIMARY KEY (round, "index")
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS open_query ON query (round, "index") WHERE open;
CREATE INDEX IF NOT EXISTS withdrawn_query ON query (withdrawn, round)
    WHERE withdrawn IS NOT NULL;
CREATE TABLE IF NOT EXISTS answer (         -- append-only: a teacher's later answer supersedes
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    round       INTEGER NOT NULL,
    "index"     INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    value       TEXT NOT NULL,              -- JSON, by kind
    decisive    INTEGER NOT NULL,           -- whether it prefers a segment
    teacher     TEXT NOT NULL,
    shown_at    REAL NOT NULL,              -- seconds since the epoch
    answered_at REAL NOT NULL,
    uuid        TEXT UNIQUE,                -- what is sent or imported twice counts once
    repeat      INTEGER NOT NULL,           -- whether the pair was shown again; teaches nothing
    superseded  INTEGER,                    -- id of the teacher's next answer to the same
    gold        INTEGER NOT NULL DEFAULT 0, -- whether it only measures the teacher
    FOREIGN KEY (round, "index") REFERENCES query
);
CREATE INDEX IF NOT EXISTS answer_of_query ON answer (round, "index");
DROP INDEX IF EXISTS answer_that_stands;    -- of earlier versions: counts read every answer, too
CREATE INDEX IF NOT EXISTS standing_answer ON answer
    (teacher, kind, id, repeat, gold, round, superseded)
    WHERE superseded IS NULL AND kind <> 'retraction';
CREATE INDEX IF NOT EXISTS gold_answer ON answer (teacher, id) WHERE gold;
CREATE INDEX IF NOT EXISTS broken_answer ON answer (round, "index") WHERE kind = 'broken';
CREATE VIEW IF NOT EXISTS standing AS       -- the last answer of each teacher to each query
                                            -- and to each that was shown to them again
    SELECT * FROM answer WHERE superseded IS NULL AND kind <> 'retraction';
CREATE TABLE IF NOT EXISTS tally (          -- of the run's own rounds, not of imported ones
    asked    INTEGER NOT NULL,              -- queries
    answered INTEGER NOT NULL,              -- those that are labelled
    decisive INTEGER NOT NULL,              -- those that are decided
    pending  INTEGER NOT NULL,              -- those that are open
    clips    INTEGER NOT NULL,              -- segments of those that are labelled
    seconds  REAL NOT NULL                  -- what all answers took; a pause is not counted
);
INSERT INTO tally SELECT 0, 0, 0, 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM tally);
CREATE TRIGGER IF NOT EXISTS asked AFTER INSERT ON query WHEN new.round >= 0 BEGIN
    UPDATE tally SET asked = asked + 1, pending = pending + new.open;
END;
CREATE TRIGGER IF NOT EXISTS tallied AFTER UPDATE OF open, labelled, decided ON query
WHEN new.round >= 0 BEGIN
    UPDATE tally SET
        answered = answered + new.labelled - old.labelled,
        decisive = decisive + new.decided - old.decided,
        pending = pending + new.open - old.open,
        clips = clips + (new.labelled - old.labelled) * json_array_length(new.segments);
END;
CREATE TRIGGER IF NOT EXISTS answered AFTER INSERT ON answer BEGIN
    UPDATE answer SET superseded = new.id
    WHERE round = new.round AND "index" = new."index" AND teacher = new.teacher
        AND repeat = new.repeat AND gold = new.gold AND superseded IS NULL AND id < new.id;
    UPDATE query SET (open, labelled, decided) = (
        SELECT query.withdrawn IS NULL AND count(*) = 0,
            coalesce(max(kind <> 'skip') AND NOT max(kind = 'broken'), 0),
            coalesce(max(decisive) AND NOT max(kind = 'broken'), 0)
        FROM standing s WHERE s.round = new.round AND s."index" = new."index"
            AND (s.kind = 'broken' OR NOT (s.repeat OR s.gold)))
    WHERE round = new.round AND "index" = new."index"
        AND (new.kind IN ('broken', 'retraction') OR NOT (new.repeat OR new.gold));
    UPDATE tally SET seconds = seconds
        + (SELECT {SECONDS} FROM answer WHERE id = new.id)
    WHERE new.round >= 0;
END;
CREATE TABLE IF NOT EXISTS lease (          -- who is looking at what; nobody else is shown it
    round   INTEGER NOT NULL,
    "index" INTEGER NOT NULL,
    teacher TEXT NOT NULL,
    tab     TEXT NOT NULL,                  -- one person may have two pages open
    since   REAL NOT NULL,                  -- seconds since the epoch
    until   REAL NOT NULL,
    PRIMARY KEY (round, "index"),
    FOREIGN KEY (round, "index") REFERENCES query
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repeat (         -- pairs shown to a person once more, sides swapped
    round   INTEGER NOT NULL,
    "index" INTEGER NOT NULL,
    teacher TEXT NOT NULL,
    PRIMARY KEY (round, "index", teacher),
    FOREIGN KEY (round, "index") REFERENCES query
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gold (           -- queries whose answer is known
    round   INTEGER NOT NULL,
    "index" INTEGER NOT NULL,
    clips   TEXT NOT NULL UNIQUE,           -- a hash of what they show, by which each is known
    kind    TEXT NOT NULL,                  -- of the answer that is right, as in `answer`
    value   TEXT NOT NULL,
    teacher TEXT NOT NULL,                  -- who knows it
    PRIMARY KEY (round, "index"),
    FOREIGN KEY (round, "index") REFERENCES query
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gold_asked (     -- whom each of them is shown to, once
    round   INTEGER NOT NULL,
    "index" INTEGER NOT NULL,
    teacher TEXT NOT NULL,
    PRIMARY KEY (round, "index", teacher),
    FOREIGN KEY (round, "index") REFERENCES query
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trainer (        -- who trains the run: one row, or none yet
    epoch   INTEGER NOT NULL,               -- rises with each trainer; older ones write no more
    process INTEGER,                        -- its number; null: nobody trains
    start   TEXT NOT NULL,                  -- of that process, as the platform tells it
    scope   TEXT NOT NULL,                  -- where the number means something: boot, container
    host    TEXT NOT NULL,
    since   REAL NOT NULL,                  -- seconds since the epoch
    seen    REAL NOT NULL                   -- when it last said that it is there
);
CREATE TABLE IF NOT EXISTS demonstration (  -- of a language task, by a person
    id       INTEGER PRIMARY KEY,
    teacher  TEXT NOT NULL,
    prompt   TEXT NOT NULL,
    response TEXT,                          -- null: the prompt is proposed as a task
    at       REAL NOT NULL,                 -- seconds since the epoch
    uuid     TEXT UNIQUE
);
CREATE TABLE IF NOT EXISTS true_reward (    -- for the oracle, evaluation and plots alone
    segment TEXT PRIMARY KEY REFERENCES segment,
    rewards BLOB NOT NULL                   -- float64, one a step
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aspect_reward (  -- the same, of what each aspect truly pays
    segment TEXT NOT NULL REFERENCES segment,
    aspect  TEXT NOT NULL,
    rewards BLOB NOT NULL,
    PRIMARY KEY (segment, aspect)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS true_return (    -- for the oracle alone
    round INTEGER PRIMARY KEY REFERENCES round,
    mean  REAL NOT NULL                     -- of a clip of all that the round's policy did
);
"""
# What brings the tables of an older version up to the next one; `SCHEMA` then adds what is missing.
MIGRATIONS = {
    4: (
        "DROP TRIGGER tallied",
        "DROP TRIGGER answered",
        "ALTER TABLE tally ADD COLUMN clips INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE tally ADD COLUMN seconds REAL NOT NULL DEFAULT 0",
        "UPDATE tally SET clips = (SELECT coalesce(sum(labelled * json_array_length(segments)), 0) "
        "FROM query WHERE round >= 0), seconds = (SELECT coalesce(sum("
        f"{SECONDS}), 0) FROM answer WHERE round >= 0)",
    ),
    5: ("ALTER TABLE query ADD COLUMN aspect TEXT NOT NULL DEFAULT ''",),
    6: (
        "DROP TRIGGER IF EXISTS answered",
        "DROP VIEW IF EXISTS standing",
        "ALTER TABLE answer ADD COLUMN gold INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE query ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",
    ),
}
