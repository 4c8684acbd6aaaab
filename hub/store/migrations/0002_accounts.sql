-- Accounts: people, households, sessions, nodes, apps and OAuth clients.
--
-- "own-sealed" values are sealed under the key of the person they are about:
-- with that key they end, in every copy. "index" values are HMAC-SHA256 under a
-- secret of the store, so that a row can be found by what it does not show.
-- Codes short enough to be tried out are kept as an index as well; keys and
-- tokens of 128 random bits and more as a digest.

CREATE TABLE users (
    id         BIGINT PRIMARY KEY,     -- counted in meta, never used again
    email      BYTEA  NOT NULL,        -- own-sealed
    email_idx  BYTEA  NOT NULL UNIQUE, -- index of the folded address
    name       BYTEA  NOT NULL,        -- own-sealed; what the policy calls the person
    name_idx   BYTEA  NOT NULL UNIQUE, -- index; of the id for who has no name
    superuser  BIGINT NOT NULL,
    change     BIGINT NOT NULL,        -- 1: the password must be changed
    temp_until BIGINT NOT NULL,
    disabled   BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    password   BYTEA  NOT NULL,        -- own-sealed
    totp       BYTEA  NOT NULL,        -- own-sealed
    confirmed  BIGINT NOT NULL,
    last_step  BIGINT NOT NULL
);

CREATE TABLE recovery_codes (
    code_idx BYTEA  PRIMARY KEY,       -- index of person and code
    user_id  BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE
);

CREATE INDEX recovery_codes_by_user ON recovery_codes (user_id);

CREATE TABLE passkeys (
    id        BYTEA  PRIMARY KEY,
    user_id   BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name      BYTEA  NOT NULL,         -- own-sealed
    record    BYTEA  NOT NULL,         -- own-sealed
    created   BIGINT NOT NULL,
    last_used BIGINT NOT NULL
);

CREATE INDEX passkeys_by_user ON passkeys (user_id);

CREATE TABLE failures (
    key_idx BYTEA  PRIMARY KEY,        -- index: a key can hold somebody's address
    count   BIGINT NOT NULL,
    last_at BIGINT NOT NULL
);

CREATE INDEX failures_by_time ON failures (last_at);

CREATE TABLE known_machines (
    user_id   BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    peer      TEXT   NOT NULL,
    last_seen BIGINT NOT NULL,
    PRIMARY KEY (user_id, peer)
);

CREATE TABLE households (
    id      TEXT PRIMARY KEY,
    name    TEXT   NOT NULL,
    label   TEXT   NOT NULL,           -- what the packet policy calls it, may be empty
    created BIGINT NOT NULL
);

CREATE UNIQUE INDEX households_by_label ON households (label) WHERE label <> '';

CREATE TABLE memberships (
    household TEXT   NOT NULL REFERENCES households (id) ON DELETE CASCADE,
    user_id   BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role      BIGINT NOT NULL,         -- 1 member, 2 power user, 3 admin
    joined    BIGINT NOT NULL,
    PRIMARY KEY (household, user_id)
);

CREATE INDEX memberships_by_user ON memberships (user_id);

CREATE TABLE invitations (
    id        TEXT PRIMARY KEY,
    household TEXT   NOT NULL REFERENCES households (id) ON DELETE CASCADE,
    code_idx  BYTEA  NOT NULL UNIQUE,  -- index
    role      BIGINT NOT NULL,
    by_user   BIGINT NOT NULL,
    created   BIGINT NOT NULL,
    expires   BIGINT NOT NULL,
    used_by   BIGINT NOT NULL,         -- 0 until then
    used_at   BIGINT NOT NULL
);

CREATE TABLE sessions (
    id        TEXT PRIMARY KEY,
    user_id   BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    peer      TEXT   NOT NULL,
    peer_key  BYTEA  NOT NULL,
    household TEXT   NOT NULL,
    client    TEXT   NOT NULL,
    scope     TEXT   NOT NULL,
    nonce     TEXT   NOT NULL,
    auth_time BIGINT NOT NULL,
    methods   TEXT   NOT NULL,         -- separated by blanks
    created   BIGINT NOT NULL,
    expires   BIGINT NOT NULL,
    revoked   BIGINT NOT NULL,         -- 0 while it lives
    why       TEXT   NOT NULL
);

CREATE INDEX sessions_by_user ON sessions (user_id);

CREATE TABLE refresh_tokens (
    hash      BYTEA  PRIMARY KEY,
    session   TEXT   NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    issued    BIGINT NOT NULL,
    expires   BIGINT NOT NULL,
    successor BYTEA,                   -- null until it was exchanged
    used_at   BIGINT NOT NULL
);

CREATE INDEX refresh_tokens_by_session ON refresh_tokens (session);

CREATE TABLE nodes (
    id            TEXT PRIMARY KEY,
    name          TEXT   NOT NULL,
    household     TEXT   NOT NULL REFERENCES households (id) ON DELETE CASCADE,
    peer          TEXT   NOT NULL,     -- empty until a machine proved a key
    registered_by BIGINT NOT NULL,
    room          TEXT   NOT NULL,
    active        BIGINT NOT NULL,
    services      TEXT   NOT NULL,     -- sorted, separated by blanks
    created       BIGINT NOT NULL,
    rotated       BIGINT NOT NULL,
    seen          BIGINT NOT NULL
);

CREATE INDEX nodes_by_household ON nodes (household);

CREATE TABLE apps (
    id         TEXT PRIMARY KEY,
    name       TEXT   NOT NULL,
    peer       TEXT   NOT NULL,
    active     BIGINT NOT NULL,
    services   TEXT   NOT NULL,        -- sorted, separated by blanks
    households TEXT   NOT NULL,        -- separated by blanks; empty means all, so one that is gone stays in the list
    admin      BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    rotated    BIGINT NOT NULL
);

CREATE TABLE machine_keys (
    digest  BYTEA  PRIMARY KEY,
    owner   TEXT   NOT NULL,           -- node:ID or app:ID
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL            -- 0: until it is replaced
);

CREATE INDEX machine_keys_by_owner ON machine_keys (owner);

CREATE TABLE enrolments (
    hash      BYTEA  PRIMARY KEY,
    node      TEXT   NOT NULL,
    household TEXT   NOT NULL REFERENCES households (id) ON DELETE CASCADE,
    name      TEXT   NOT NULL,
    room      TEXT   NOT NULL,
    by_user   BIGINT NOT NULL,
    expires   BIGINT NOT NULL,
    used_at   BIGINT NOT NULL
);

CREATE TABLE oauth_clients (
    id          TEXT PRIMARY KEY,
    name        TEXT   NOT NULL,
    redirects   TEXT   NOT NULL,       -- JSON
    secret      BYTEA  NOT NULL,       -- digest, empty for a public client
    device      BIGINT NOT NULL,
    first_party BIGINT NOT NULL,
    created     BIGINT NOT NULL
);

CREATE TABLE auth_requests (
    id        TEXT PRIMARY KEY,
    client    TEXT   NOT NULL REFERENCES oauth_clients (id) ON DELETE CASCADE,
    redirect  TEXT   NOT NULL,
    state     TEXT   NOT NULL,
    nonce     TEXT   NOT NULL,
    scope     TEXT   NOT NULL,
    challenge TEXT   NOT NULL,
    peer      TEXT   NOT NULL,
    peer_key  BYTEA  NOT NULL,
    created   BIGINT NOT NULL,
    expires   BIGINT NOT NULL,
    user_id   BIGINT NOT NULL,         -- 0 until somebody agreed
    household TEXT   NOT NULL,
    auth_time BIGINT NOT NULL,
    methods   TEXT   NOT NULL,
    code_hash BYTEA  UNIQUE,           -- null until there is a code
    redeemed  BIGINT NOT NULL,
    session   TEXT   NOT NULL
);

CREATE INDEX auth_requests_by_peer ON auth_requests (peer);

CREATE TABLE devices (
    hash      BYTEA  PRIMARY KEY,
    code      BYTEA  NOT NULL,         -- sealed
    code_idx  BYTEA  NOT NULL UNIQUE,  -- index
    client    TEXT   NOT NULL REFERENCES oauth_clients (id) ON DELETE CASCADE,
    scope     TEXT   NOT NULL,
    peer      TEXT   NOT NULL,
    peer_key  BYTEA  NOT NULL,
    created   BIGINT NOT NULL,
    expires   BIGINT NOT NULL,
    last_poll BIGINT NOT NULL,
    user_id   BIGINT NOT NULL,         -- 0 until somebody decided
    household TEXT   NOT NULL,
    denied    BIGINT NOT NULL,
    auth_time BIGINT NOT NULL,
    methods   TEXT   NOT NULL,
    redeemed  BIGINT NOT NULL
);

CREATE INDEX devices_by_peer ON devices (peer);

CREATE TABLE signing_keys (
    id         TEXT PRIMARY KEY,
    private    BYTEA  NOT NULL,        -- sealed
    created    BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    retires    BIGINT NOT NULL,
    expires    BIGINT NOT NULL
);
