BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'luciole-central','m001_first','2026-11-23 07:43:23.847013+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'luciole-central','m002_priority','2026-11-25 08:48:02.244903+00:00');
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
INSERT INTO "batch" VALUES(5,1,2,'461a84f4b54ac625','cab-1-boot-1',0,1770000000000);
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
INSERT INTO "device" VALUES('cab-1-junction','cab-1',1,'junction','rsmp-1','KK+AG0503=001TC000',1,'[]','','[{"name":"time_plan","unit":"","writable":true,"minimum":1.0,"maximum":255.0},{"name":"signal_groups","unit":"","writable":false,"minimum":null,"maximum":null}]');
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
    send_ms INTEGER, lease_until_ms INTEGER, lease_s REAL, renew_ms INTEGER,
    PRIMARY KEY (cabinet, kind, version)
) WITHOUT ROWID;
INSERT INTO "policy" VALUES('cab-1','priority',1,'2852fba58a711db8102d0dd5c740f25590b3c439e004f6ae5befe1cb3f932b90',X'7B22636162696E6574223A226361622D31222C226B696E64223A227072696F72697479222C2276657273696F6E223A312C226E6F745F6265666F72655F6D73223A313737303030303030303030302C22657870697265735F6D73223A313737303030303036303030302C226B6579223A2263656E747265222C227072696F72697479223A7B22617070726F6163686573223A5B7B226964223A2277657374222C226A756E6374696F6E223A226361622D312D6A756E6374696F6E222C227369676E616C5F67726F7570223A224131222C2270617468223A5B7B226C61746974756465223A34372E3332322C226C6F6E676974756465223A352E3033387D2C7B226C61746974756465223A34372E333232312C226C6F6E676974756465223A352E3034327D5D2C2273746F705F6C696E655F6D223A3238302E302C22636865636B5F696E5F6D223A3230302E302C22636865636B5F6F75745F6D223A31302E302C22636F727269646F725F6D223A32352E302C2268656164696E675F746F6C6572616E63655F646567223A34352E302C22617070726F6163685F73706565645F6D5F73223A382E302C22636865636B5F696E5F6465746563746F72223A22222C22636865636B5F6F75745F6465746563746F72223A22222C226465746563746F725F6D223A302E307D5D2C2272756C6573223A5B7B226964223A227472756E6B2D6C696E6573222C22617070726F616368223A2277657374222C22726F75746573223A5B224C33222C224C35225D2C22646972656374696F6E73223A5B5D2C2276656869636C655F7479706573223A5B22627573225D2C2262795F6465746563746F72223A66616C73652C226C6576656C223A372C22677265656E5F657874656E73696F6E223A747275652C226561726C795F677265656E223A747275652C226D61785F657874656E73696F6E5F73223A31352C22636F6F6C646F776E5F73223A39302C226772616E74735F7065725F686F7572223A34302C2274696D655F746F5F6C6976655F73223A3132302C22736861646F77223A66616C73657D5D2C226C656173655F756E74696C5F6D73223A313737303030303036303030302C227374616C655F706F736974696F6E5F73223A352E307D7D','centre',X'54C9F4B4E07B556412CFD86C0497D195060D59808612BFDFE32C3638D0B84BF1DAFE099B8BCD3CD91A9CB2E6A010674757AD6DF2360204A3B740F54F193ECC0B',1770000000000,1770000060000,1770000000000,0,1770000000000,1770000060000,60.0,1770000030000);
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
CREATE TABLE priority (
    cabinet TEXT PRIMARY KEY, document TEXT NOT NULL, updated_ms INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO "priority" VALUES('cab-1','{"approaches":[{"id":"west","junction":"cab-1-junction","signal_group":"A1","path":[{"latitude":47.322,"longitude":5.038},{"latitude":47.3221,"longitude":5.042}],"stop_line_m":280.0,"check_in_m":200.0,"check_out_m":10.0,"corridor_m":25.0,"heading_tolerance_deg":45.0,"approach_speed_m_s":8.0,"check_in_detector":"","check_out_detector":"","detector_m":0.0}],"rules":[{"id":"trunk-lines","approach":"west","routes":["L3","L5"],"directions":[],"vehicle_types":["bus"],"by_detector":false,"level":7,"green_extension":true,"early_green":true,"max_extension_s":15,"cooldown_s":90,"grants_per_hour":40,"time_to_live_s":120,"shadow":false}],"stale_position_s":5.0}',1770000000000);
CREATE TABLE priority_request (
    id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    request TEXT NOT NULL,
    turn INTEGER NOT NULL,
    first_ms INTEGER NOT NULL DEFAULT 0,
    asked_ms INTEGER,
    changed_ms INTEGER NOT NULL DEFAULT 0,
    activated_ms INTEGER,
    junction TEXT NOT NULL DEFAULT '',
    rule TEXT NOT NULL DEFAULT '',
    approach TEXT NOT NULL DEFAULT '',
    signal_group TEXT NOT NULL DEFAULT '',
    vehicle TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL DEFAULT '',
    level INTEGER NOT NULL DEFAULT 0,
    shadow INTEGER NOT NULL DEFAULT 0,
    state TEXT,
    reason TEXT NOT NULL DEFAULT '',
    extension_s INTEGER,
    reduction_s INTEGER,
    contradiction TEXT NOT NULL DEFAULT '',
    UNIQUE (cabinet, request),
    UNIQUE (cabinet, turn)
);
INSERT INTO "priority_request" VALUES(1,'cab-1','old-r',1,1770000000000,1770000000000,1770000006000,1770000006000,'cab-1-junction','trunk-lines','west','A1','v-83a1','position',7,0,'activated','',NULL,NULL,'');
CREATE TABLE priority_step (
    request_id INTEGER NOT NULL REFERENCES priority_request (id) ON DELETE CASCADE,
    event TEXT NOT NULL,
    PRIMARY KEY (request_id, event)
) WITHOUT ROWID;
INSERT INTO "priority_step" VALUES(1,'["priority","old-r","cab-1-junction","trunk-lines","west","A1","v-83a1","position",7,"activated","",1770000006000,null,null,null,false]');
INSERT INTO "priority_step" VALUES(1,'["priority","old-r","cab-1-junction","trunk-lines","west","A1","v-83a1","position",7,"received","",1770000000000,null,null,null,false]');
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
INSERT INTO "stream" VALUES(1,'cab-1',7001,0,2,'461a84f4b54ac625',2,3,0,NULL,1770000000000);
INSERT INTO "stream" VALUES(2,'cab-1',7001,1,0,'',1,1,0,NULL,1770000000000);
INSERT INTO "stream" VALUES(3,'cab-1',7001,2,3,'c2c41f8ec4889462',4,4,3,1770000002000,1770000000000);
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
CREATE INDEX policy_to_send ON policy (send_ms) WHERE send_ms IS NOT NULL;
CREATE INDEX policy_to_renew ON policy (renew_ms) WHERE renew_ms IS NOT NULL;
CREATE INDEX priority_request_by_time ON priority_request (first_ms, id);
CREATE INDEX priority_request_by_cabinet ON priority_request (cabinet, first_ms, id);
CREATE INDEX priority_request_by_junction ON priority_request (junction, first_ms, id);
COMMIT;
