-- state.db as release 0.1 wrote it before requests for priority were kept (schema 1).
BEGIN TRANSACTION;
CREATE TABLE alarm (
        device TEXT NOT NULL,
        type TEXT NOT NULL,
        raised_ms INTEGER NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (device, type)
    );
INSERT INTO "alarm" VALUES('dali-1','line_down',1795521600000,'line dali-1: unplugged');
CREATE TABLE command (
        id TEXT PRIMARY KEY,
        body BLOB NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        value BLOB NOT NULL,
        at_ms INTEGER NOT NULL
    );
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO "meta" VALUES('trusted_ms',1795521600000);
CREATE TABLE override (
        device TEXT PRIMARY KEY,
        command TEXT NOT NULL,
        body BLOB NOT NULL
    );
CREATE TABLE policy (
        kind TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        hash TEXT NOT NULL,
        body BLOB NOT NULL,
        key TEXT NOT NULL,
        signature BLOB NOT NULL,
        accepted_ms INTEGER NOT NULL
    );
PRAGMA user_version=1;
COMMIT;
