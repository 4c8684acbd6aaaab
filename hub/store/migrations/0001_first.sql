-- The first schema. One text for both engines: BIGINT, TEXT and BYTEA mean what
-- is needed on each (SQLite takes any type name and keeps bytes as bytes).
-- Times are nanoseconds since 1970, UTC, 0 for never. Times, ids and numbers
-- are made by the program, never by the database. "sealed" values are
-- AES-256-GCM under a key drawn from the master key.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BYTEA NOT NULL
);

CREATE TABLE secrets (
    name  TEXT PRIMARY KEY,
    value BYTEA NOT NULL            -- sealed
);

-- Who holds which index of the address plan. A row without a holder is an
-- address at rest; freed says since when.
CREATE TABLE addresses (
    idx    BIGINT PRIMARY KEY,
    holder TEXT   NOT NULL,         -- peer:ID, invite:ID, service:NAME or empty
    freed  BIGINT NOT NULL
);

CREATE TABLE peers (
    id             TEXT PRIMARY KEY,
    name           TEXT   NOT NULL UNIQUE,
    public_key     BYTEA  NOT NULL UNIQUE,
    idx            BIGINT NOT NULL UNIQUE REFERENCES addresses (idx),
    kind           TEXT   NOT NULL,
    owner          TEXT   NOT NULL,
    tags           TEXT   NOT NULL, -- sorted, separated by blanks
    household      TEXT   NOT NULL,
    quarantined    BIGINT NOT NULL,
    created        BIGINT NOT NULL,
    psk            BYTEA  NOT NULL, -- sealed
    endpoint       TEXT   NOT NULL,
    last_handshake BIGINT NOT NULL
);

CREATE TABLE invites (
    id         TEXT PRIMARY KEY,
    public_key BYTEA  NOT NULL UNIQUE,
    idx        BIGINT NOT NULL UNIQUE REFERENCES addresses (idx),
    name       TEXT   NOT NULL,
    owner      TEXT   NOT NULL,
    tags       TEXT   NOT NULL,
    household  TEXT   NOT NULL,
    psk        BYTEA  NOT NULL,     -- sealed
    created    BIGINT NOT NULL,
    expires    BIGINT NOT NULL,
    used_by    BYTEA,               -- the key that came; null until then
    used_at    BIGINT NOT NULL,
    peer_id    TEXT   NOT NULL      -- the peer it became, empty until then
);

CREATE TABLE policies (
    generation BIGINT PRIMARY KEY,
    text       BYTEA  NOT NULL,
    author     TEXT   NOT NULL,
    at         BIGINT NOT NULL,
    confirm_by BIGINT NOT NULL      -- 0 once confirmed
);

CREATE TABLE services (
    name    TEXT PRIMARY KEY,
    target  TEXT   NOT NULL,
    ports   TEXT   NOT NULL,        -- JSON
    host    TEXT   NOT NULL,        -- a peer's id, empty for the hub itself
    idx     BIGINT NOT NULL UNIQUE REFERENCES addresses (idx),
    created BIGINT NOT NULL
);

CREATE TABLE flows (
    src        TEXT   NOT NULL,
    dst        TEXT   NOT NULL,
    proto      BIGINT NOT NULL,
    port       BIGINT NOT NULL,
    allowed    BIGINT NOT NULL,
    reason     TEXT   NOT NULL,
    count      BIGINT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen  BIGINT NOT NULL,
    PRIMARY KEY (src, dst, proto, port, allowed)
);

CREATE INDEX flows_by_time ON flows (last_seen);

CREATE TABLE audit (
    idx   BIGINT PRIMARY KEY,
    at    BIGINT NOT NULL,
    event TEXT   NOT NULL,          -- canonical JSON
    prev  BYTEA  NOT NULL,
    hash  BYTEA  NOT NULL
);
