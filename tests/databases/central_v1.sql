BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'luciole-central','m001_first','2026-11-23 07:43:23.847013+00:00');
CREATE TABLE alarm (
    id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    device TEXT NOT NULL,
    type TEXT NOT NULL,
    raised_ms INTEGER NOT NULL,
    repeated_ms INTEGER NOT NULL,
    cleared_ms INTEGER,
    acknowledged_ms INTEGER,
    acknowledged_by TEXT,
    text TEXT NOT NULL
);
INSERT INTO "alarm" VALUES(1,'cab-1','cab-1-lamp-0','lamp_failure',1770000000000,1770000000000,NULL,NULL,NULL,'no light');
CREATE TABLE batch (
    id INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL REFERENCES stream (id),
    number INTEGER NOT NULL,
    hash TEXT NOT NULL,
    boot TEXT NOT NULL,
    readings INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    UNIQUE (stream_id, number)
);
INSERT INTO "batch" VALUES(1,1,1,'68fdcdf79f0946a3','cab-1-boot-1',0,1770000000000);
INSERT INTO "batch" VALUES(2,3,1,'b919e76a4c15f24e','cab-1-boot-1',1,1770000000000);
INSERT INTO "batch" VALUES(3,3,2,'56729951142cd822','cab-1-boot-1',1,1770000000000);
INSERT INTO "batch" VALUES(4,3,3,'c2c41f8ec4889462','cab-1-boot-1',1,1770000000000);
CREATE TABLE cabinet (
    id TEXT PRIMARY KEY,
    first_seen_ms INTEGER NOT NULL,
    online INTEGER NOT NULL DEFAULT 0,
    presence_ms INTEGER,
    hello_ms INTEGER,
    boot TEXT NOT NULL DEFAULT '',
    boot_utc_offset_ms INTEGER,
    epoch INTEGER,
    agent_version TEXT NOT NULL DEFAULT '',
    sqlite_version TEXT NOT NULL DEFAULT '',
    last_end TEXT,
    started_ms INTEGER,
    clock INTEGER,
    keys TEXT NOT NULL DEFAULT '[]'
) WITHOUT ROWID;
INSERT INTO "cabinet" VALUES('cab-1',1770000000000,1,1770000000000,1770000000000,'cab-1-boot-1',1769999999000,7001,'0.1.0','3.40.1','clean',NULL,2,'["centre"]');
CREATE TABLE calendar (
    id TEXT PRIMARY KEY, document TEXT NOT NULL, updated_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE centre (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE command (
    id TEXT PRIMARY KEY,
    cabinet TEXT NOT NULL,
    device TEXT NOT NULL,
    point TEXT NOT NULL,
    value TEXT NOT NULL,
    issuer TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    not_before_ms INTEGER NOT NULL,
    until_ms INTEGER,
    ramp_s REAL NOT NULL,
    ours INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    state_ms INTEGER NOT NULL,
    assumed TEXT,
    answered INTEGER NOT NULL,
    sends INTEGER NOT NULL,
    send_ms INTEGER,
    override TEXT,
    release INTEGER NOT NULL DEFAULT 0,
    request TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "command" VALUES('old-1','cab-1','cab-1-lamp-0','dimming_level','40','technician:root',1770000000000,1770000000000,0,NULL,0.0,0,'verified','',1770000000000,NULL,1,0,NULL,NULL,0,'');
CREATE TABLE control_program (
    id TEXT PRIMARY KEY, document TEXT NOT NULL, updated_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE device (
    id TEXT PRIMARY KEY,
    cabinet TEXT NOT NULL,
    listed INTEGER NOT NULL,
    kind TEXT,
    line TEXT NOT NULL DEFAULT '',
    address TEXT NOT NULL DEFAULT '',
    stream INTEGER NOT NULL DEFAULT 2,
    groups TEXT NOT NULL DEFAULT '[]',
    commune TEXT NOT NULL DEFAULT '',
    points TEXT NOT NULL DEFAULT '[]'
) WITHOUT ROWID;
INSERT INTO "device" VALUES('cab-1-lamp-0','cab-1',1,'lamp','dali-1','0',2,'["street"]','','[{"name":"dimming_level","unit":"%","writable":true,"minimum":0.0,"maximum":100.0},{"name":"lamp_failure","unit":"","writable":false,"minimum":null,"maximum":null}]');
INSERT INTO "device" VALUES('cab-1-lamp-1','cab-1',1,'lamp','dali-1','1',2,'["street"]','','[{"name":"dimming_level","unit":"%","writable":true,"minimum":0.0,"maximum":100.0},{"name":"lamp_failure","unit":"","writable":false,"minimum":null,"maximum":null}]');
INSERT INTO "device" VALUES('cab-1-lamp-2','cab-1',1,'lamp','dali-1','2',2,'["street"]','','[{"name":"dimming_level","unit":"%","writable":true,"minimum":0.0,"maximum":100.0},{"name":"lamp_failure","unit":"","writable":false,"minimum":null,"maximum":null}]');
CREATE TABLE device_group (
    name TEXT NOT NULL, device TEXT NOT NULL, PRIMARY KEY (name, device)
) WITHOUT ROWID;
INSERT INTO "device_group" VALUES('street','cab-1-lamp-0');
INSERT INTO "device_group" VALUES('street','cab-1-lamp-1');
INSERT INTO "device_group" VALUES('street','cab-1-lamp-2');
CREATE TABLE gap (
    id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    stream INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    cause TEXT NOT NULL,
    from_ms INTEGER,
    to_ms INTEGER,
    count INTEGER,
    reported INTEGER NOT NULL
);
CREATE TABLE latest (
    series_id INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL,
    batch_id INTEGER NOT NULL,
    utc_ms INTEGER NOT NULL,
    value,
    boolean INTEGER NOT NULL,
    quality INTEGER NOT NULL,
    reason TEXT,
    clock INTEGER NOT NULL,
    stamped INTEGER NOT NULL
);
INSERT INTO "latest" VALUES(1,3,4,1770000002000,30.0,0,0,NULL,2,0);
CREATE TABLE lighting (
    cabinet TEXT PRIMARY KEY, document TEXT NOT NULL, updated_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE override (
    id TEXT PRIMARY KEY,
    level INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    ramp_s REAL NOT NULL,
    issuer TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    released_ms INTEGER
) WITHOUT ROWID;
CREATE TABLE policy (
    cabinet TEXT NOT NULL,
    kind TEXT NOT NULL,
    version INTEGER NOT NULL,
    hash TEXT NOT NULL,
    body BLOB NOT NULL,
    key TEXT NOT NULL,
    signature BLOB NOT NULL,
    not_before_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    sends INTEGER NOT NULL DEFAULT 0,
    send_ms INTEGER,
    PRIMARY KEY (cabinet, kind, version)
) WITHOUT ROWID;
CREATE TABLE policy_in_force (
    cabinet TEXT NOT NULL, kind TEXT NOT NULL, version INTEGER NOT NULL, hash TEXT NOT NULL,
    PRIMARY KEY (cabinet, kind)
) WITHOUT ROWID;
CREATE TABLE policy_report (
    id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    kind TEXT NOT NULL,
    version INTEGER NOT NULL,
    hash TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    reasons TEXT NOT NULL,
    at_ms INTEGER NOT NULL
);
CREATE TABLE reading (
    series_id INTEGER NOT NULL,
    utc_ms INTEGER NOT NULL,
    batch_id INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    value,
    boolean INTEGER NOT NULL,
    quality INTEGER NOT NULL,
    reason TEXT,
    clock INTEGER NOT NULL,
    stamped INTEGER NOT NULL,
    PRIMARY KEY (series_id, utc_ms, batch_id, idx)
) WITHOUT ROWID;
INSERT INTO "reading" VALUES(1,1770000000000,2,0,10.0,0,0,NULL,2,0);
INSERT INTO "reading" VALUES(1,1770000001000,3,0,20.0,0,0,NULL,2,0);
INSERT INTO "reading" VALUES(1,1770000002000,4,0,30.0,0,0,NULL,2,0);
CREATE TABLE refused_device (
    cabinet TEXT NOT NULL,
    device TEXT NOT NULL,
    owner TEXT NOT NULL,
    readings INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    PRIMARY KEY (cabinet, device)
) WITHOUT ROWID;
CREATE TABLE series (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, point TEXT NOT NULL, UNIQUE (device, point)
);
INSERT INTO "series" VALUES(1,'cab-1-lamp-0','dimming_level');
CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    mark INTEGER NOT NULL DEFAULT 0,
    hash TEXT NOT NULL DEFAULT '',
    floor INTEGER NOT NULL DEFAULT 1,
    next INTEGER NOT NULL DEFAULT 1,
    readings INTEGER NOT NULL DEFAULT 0,
    last_utc_ms INTEGER,
    received_ms INTEGER NOT NULL,
    UNIQUE (cabinet, epoch, stream)
);
INSERT INTO "stream" VALUES(1,'cab-1',7001,0,1,'68fdcdf79f0946a3',1,2,0,NULL,1770000000000);
INSERT INTO "stream" VALUES(2,'cab-1',7001,1,0,'',1,1,0,NULL,1770000000000);
INSERT INTO "stream" VALUES(3,'cab-1',7001,2,3,'c2c41f8ec4889462',1,4,3,1770000002000,1770000000000);
INSERT INTO "stream" VALUES(4,'cab-1',7001,3,0,'',1,1,0,NULL,1770000000000);
CREATE TABLE unreadable_batch (
    batch_id INTEGER PRIMARY KEY REFERENCES batch (id), why TEXT NOT NULL, sealed BLOB NOT NULL
);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX device_by_cabinet ON device (cabinet, id);
CREATE INDEX device_group_by_device ON device_group (device);
CREATE INDEX gap_by_stream ON gap (cabinet, stream, epoch, first);
CREATE UNIQUE INDEX alarm_lasting ON alarm (cabinet, device, type) WHERE cleared_ms IS NULL;
CREATE INDEX alarm_by_device ON alarm (cabinet, device, type, repeated_ms);
CREATE INDEX policy_report_by_version ON policy_report (cabinet, kind, version);
CREATE INDEX command_to_send ON command (send_ms) WHERE send_ms IS NOT NULL;
CREATE INDEX command_by_point ON command (device, point, created_ms);
CREATE INDEX command_by_time ON command (created_ms, id);
CREATE INDEX command_by_cabinet ON command (cabinet, created_ms);
CREATE INDEX command_by_override ON command (override) WHERE override IS NOT NULL;
COMMIT;
