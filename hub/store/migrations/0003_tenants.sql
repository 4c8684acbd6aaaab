-- What belongs to households and to persons. Every table that holds a
-- household's data names it in a column "household", the first of its key
-- where it has one. "sealed for U" values are AES-256-GCM under the key of the
-- person U, which is in person_keys and nowhere else.

CREATE TABLE person_keys (
    user_id BIGINT PRIMARY KEY,
    key     BYTEA NOT NULL          -- sealed
);

-- Who is to be erased, for ever: a backup that still knows them is corrected
-- by it.
CREATE TABLE erased (
    user_id BIGINT PRIMARY KEY,
    at      BIGINT NOT NULL,        -- when it was asked for
    done    BIGINT NOT NULL         -- 0 until it was
);

-- Files with people's keys, out of which an erased person is to be taken.
CREATE TABLE people_files (
    path TEXT PRIMARY KEY,
    at   BIGINT NOT NULL
);

CREATE TABLE access_log (
    user_id BIGINT NOT NULL,
    id      TEXT   NOT NULL,
    at      BIGINT NOT NULL,
    body    BYTEA  NOT NULL,        -- sealed for user_id
    PRIMARY KEY (user_id, id)
);

CREATE INDEX access_log_by_time ON access_log (at);

CREATE TABLE records (
    household TEXT   NOT NULL REFERENCES households (id) ON DELETE CASCADE,
    kind      TEXT   NOT NULL,
    id        TEXT   NOT NULL,
    user_id   BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    body      BYTEA  NOT NULL,      -- sealed for user_id
    PRIMARY KEY (household, kind, id)
);

CREATE INDEX records_by_user ON records (user_id, household, kind, id);
CREATE INDEX records_by_time ON records (kind, at);

CREATE TABLE blobs (
    household TEXT   NOT NULL REFERENCES households (id) ON DELETE CASCADE,
    kind      TEXT   NOT NULL,
    id        TEXT   NOT NULL,
    node      TEXT   NOT NULL,
    by_user   BIGINT NOT NULL,
    state     TEXT   NOT NULL,
    payload   BYTEA  NOT NULL,      -- ciphertext that is not ours, in JSON
    created   BIGINT NOT NULL,
    expires   BIGINT NOT NULL,      -- 0 for never
    PRIMARY KEY (household, kind, id)
);

CREATE INDEX blobs_by_node ON blobs (household, kind, node, created);
CREATE INDEX blobs_by_expiry ON blobs (expires);

-- The highest version of a node's settings, so that none returns that is older.
CREATE TABLE versions (
    household   TEXT   NOT NULL REFERENCES households (id) ON DELETE CASCADE,
    node        TEXT   NOT NULL,
    config_type TEXT   NOT NULL,
    version     BIGINT NOT NULL,
    PRIMARY KEY (household, node, config_type)
);

-- A hook's name is in its URL, which names no household: one name, one hook.
CREATE TABLE hooks (
    name      TEXT PRIMARY KEY,
    household TEXT   NOT NULL REFERENCES households (id) ON DELETE CASCADE,
    secret    BYTEA  NOT NULL,      -- sealed
    created   BIGINT NOT NULL
);

CREATE INDEX hooks_by_household ON hooks (household);

CREATE TABLE accepted (
    household TEXT   NOT NULL REFERENCES households (id) ON DELETE CASCADE,
    hook      TEXT   NOT NULL,
    id        BYTEA  NOT NULL,
    expires   BIGINT NOT NULL,
    PRIMARY KEY (household, hook, id)
);

CREATE INDEX accepted_by_expiry ON accepted (expires);

CREATE TABLE deliveries (
    household TEXT   NOT NULL REFERENCES households (id) ON DELETE CASCADE,
    hook      TEXT   NOT NULL,
    seq       BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    body      BYTEA  NOT NULL,      -- sealed
    PRIMARY KEY (household, hook, seq)
);
