"""Schema: the tables of the registry, as SQL."""

FORMAT = 1
"""Of the file; another one is refused."""
SCHEMA = """
CREATE TABLE models (
    hash TEXT PRIMARY KEY,          -- SHA-256 of the file
    game TEXT NOT NULL,             -- name with options
    source TEXT NOT NULL,           -- how the game is made: its name, or the path of a .py file
    options TEXT NOT NULL,          -- JSON
    rules_identity TEXT NOT NULL,
    path TEXT NOT NULL,             -- of the file, relative to the registry where it lies below it
    run TEXT,                       -- its folder, relative likewise
    parent TEXT, config_hash TEXT,
    positions INTEGER, steps INTEGER, games INTEGER,    -- what it was trained on; NULL: not known
    created TEXT NOT NULL,
    stage TEXT NOT NULL DEFAULT 'development' CHECK (stage IN ('development', 'staging', 'production')),
    removed TEXT                    -- when its file was pruned
);
CREATE UNIQUE INDEX one_production ON models (game) WHERE stage = 'production';
CREATE TABLE tags (hash TEXT NOT NULL REFERENCES models, tag TEXT NOT NULL, PRIMARY KEY (hash, tag));
CREATE TABLE matches (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,   -- the same match twice is one row
    game TEXT NOT NULL,
    a TEXT NOT NULL, a_hash TEXT, a_settings TEXT NOT NULL,
    b TEXT NOT NULL, b_hash TEXT, b_settings TEXT NOT NULL,
    games INTEGER NOT NULL, pairs INTEGER NOT NULL,
    score REAL NOT NULL, low REAL NOT NULL, high REAL NOT NULL,     -- of a, with 95 % interval
    seed INTEGER NOT NULL,              -- of the openings
    at TEXT NOT NULL,
    summary TEXT NOT NULL
);
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    hash TEXT NOT NULL REFERENCES models,
    champion TEXT,                  -- hash of the model that was to be beaten; NULL: there was none
    passed INTEGER NOT NULL,
    reason TEXT NOT NULL,
    matches TEXT NOT NULL,          -- JSON: ids
    at TEXT NOT NULL,
    summary TEXT NOT NULL
);
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL REFERENCES models,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,             -- promote or replaced, rollback or restored
    "before" TEXT NOT NULL, "after" TEXT NOT NULL,     -- stages
    reason TEXT NOT NULL,
    forced INTEGER NOT NULL,
    decision INTEGER,               -- the evidence
    last_decision INTEGER NOT NULL, -- newest decision then: a later promotion needs a newer one
    replaced TEXT                   -- who was in production before
);
"""
