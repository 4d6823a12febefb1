CREATE TABLE mediator_attempts (
	consumer VARCHAR(64) NOT NULL, 
	source VARCHAR(255) NOT NULL, 
	event_id VARCHAR(255) NOT NULL, 
	attempts INTEGER NOT NULL, 
	started_at FLOAT NOT NULL, 
	last_start VARCHAR(8) NOT NULL, 
	PRIMARY KEY (consumer, source, event_id)
);
CREATE INDEX mediator_attempts_by_time ON mediator_attempts (started_at);
CREATE TABLE mediator_idempotency (
	"key" VARCHAR(64) NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	response BLOB NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE INDEX mediator_idempotency_by_time ON mediator_idempotency (created_at);
CREATE TABLE mediator_inbox (
	consumer VARCHAR(64) NOT NULL, 
	source VARCHAR(255) NOT NULL, 
	event_id VARCHAR(255) NOT NULL, 
	received_at FLOAT NOT NULL, 
	PRIMARY KEY (consumer, source, event_id)
);
CREATE INDEX mediator_inbox_by_time ON mediator_inbox (received_at);
CREATE TABLE mediator_outbox (
	sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(64) NOT NULL, 
	type VARCHAR(255) NOT NULL, 
	time VARCHAR(40) NOT NULL, 
	partition_key VARCHAR(255), 
	bucket INTEGER NOT NULL, 
	content_type VARCHAR(127) NOT NULL, 
	extensions TEXT NOT NULL, 
	data BLOB NOT NULL, 
	deliver_at FLOAT, 
	source VARCHAR(255) DEFAULT '' NOT NULL, 
	UNIQUE (id)
);
CREATE INDEX mediator_outbox_by_due ON mediator_outbox (deliver_at) WHERE deliver_at IS NOT NULL;
CREATE INDEX mediator_outbox_ready ON mediator_outbox (sequence) WHERE deliver_at IS NULL;
CREATE INDEX mediator_outbox_unnamed ON mediator_outbox (sequence) WHERE source = '';
CREATE TABLE mediator_outbox_archive (
	sequence INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	type VARCHAR(255) NOT NULL, 
	time VARCHAR(40) NOT NULL, 
	partition_key VARCHAR(255), 
	bucket INTEGER NOT NULL, 
	content_type VARCHAR(127) NOT NULL, 
	extensions TEXT NOT NULL, 
	data BLOB NOT NULL, 
	archived_at FLOAT NOT NULL, 
	source VARCHAR(255) DEFAULT '' NOT NULL, 
	PRIMARY KEY (sequence), 
	UNIQUE (id)
);
CREATE INDEX mediator_outbox_archive_by_time ON mediator_outbox_archive (archived_at);
CREATE TABLE mediator_parked (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	direction VARCHAR(3) NOT NULL, 
	consumer VARCHAR(64) NOT NULL, 
	source VARCHAR(255) NOT NULL, 
	event_id VARCHAR(255) NOT NULL, 
	type VARCHAR(255) NOT NULL, 
	time VARCHAR(40) NOT NULL, 
	partition_key VARCHAR(255), 
	content_type VARCHAR(127) NOT NULL, 
	extensions TEXT NOT NULL, 
	data BLOB NOT NULL, 
	subject TEXT NOT NULL, 
	headers TEXT NOT NULL, 
	sequence BIGINT NOT NULL, 
	reason VARCHAR(32) NOT NULL, 
	error TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	parked_at FLOAT NOT NULL, 
	CONSTRAINT mediator_parked_once UNIQUE (direction, consumer, source, event_id)
);
CREATE INDEX mediator_parked_by_key ON mediator_parked (consumer, partition_key, number);
CREATE TABLE mediator_relay_buckets (
	bucket INTEGER NOT NULL, 
	PRIMARY KEY (bucket)
);
CREATE TABLE mediator_schema (
	version INTEGER NOT NULL, 
	applied_at FLOAT NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO mediator_relay_buckets (bucket) VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9), (10), (11), (12), (13), (14), (15), (16), (17), (18), (19), (20), (21), (22), (23), (24), (25), (26), (27), (28), (29), (30), (31), (32), (33), (34), (35), (36), (37), (38), (39), (40), (41), (42), (43), (44), (45), (46), (47), (48), (49), (50), (51), (52), (53), (54), (55), (56), (57), (58), (59), (60), (61), (62), (63) ON CONFLICT DO NOTHING;
INSERT INTO mediator_schema (version, applied_at) VALUES (1, (julianday('now') - 2440587.5) * 86400.0) ON CONFLICT DO NOTHING;
INSERT INTO mediator_schema (version, applied_at) VALUES (2, (julianday('now') - 2440587.5) * 86400.0) ON CONFLICT DO NOTHING;
INSERT INTO mediator_inbox (consumer, source, event_id, received_at) VALUES ('advising', 'shop', 'e-1', 1795176000.0);
INSERT INTO mediator_inbox (consumer, source, event_id, received_at) VALUES ('advising', 'shop', 'e-2', 1795176000.0);
INSERT INTO mediator_inbox (consumer, source, event_id, received_at) VALUES ('advising', 'shop', 'e-3', 1795176000.0);
INSERT INTO mediator_outbox (sequence, id, type, time, partition_key, bucket, content_type, extensions, data, deliver_at, source) VALUES (2, '00000000-0000-4000-8000-000000000002', 'university.enrolled.v1', '2026-11-20T12:00:00+00:00', 'bob', 0, 'application/json', '{"correlationid":"c-1","causationid":"m-1"}', X'7b2273747564656e74223a2277616974696e67222c226b6579223a22626f62227d', NULL, 'enrollment');
INSERT INTO mediator_parked (number, direction, consumer, source, event_id, type, time, partition_key, content_type, extensions, data, subject, headers, sequence, reason, error, attempts, parked_at) VALUES (1, 'out', '', 'enrollment', '00000000-0000-4000-8000-000000000001', 'university.enrolled.v1', '2026-11-20T12:00:00+00:00', 'bob', 'application/json', '{"correlationid": "c-1", "causationid": "m-1"}', X'7b2273747564656e74223a2272656675736564222c226b6579223a22626f62227d', '', '{}', 1, 'refused', 'too large', 1, 1795176000.0);
INSERT INTO mediator_parked (number, direction, consumer, source, event_id, type, time, partition_key, content_type, extensions, data, subject, headers, sequence, reason, error, attempts, parked_at) VALUES (2, 'in', 'advising', 'shop', 'e-1', 'university.enrolled.v1', '2026-11-20T12:00:00+00:00', 'ada', 'application/json', '{"tenant": "t"}', X'7b2273747564656e74223a22732d31222c226b6579223a22616461227d', 'events.university.enrolled.1', '{"ce-specversion": "1.0", "ce-id": "e-1", "ce-source": "shop", "ce-type": "university.enrolled.v1", "ce-partitionkey": "ada"}', 1, 'handler-failed', 'ValueError: no', 8, 1795176000.0);
INSERT INTO mediator_parked (number, direction, consumer, source, event_id, type, time, partition_key, content_type, extensions, data, subject, headers, sequence, reason, error, attempts, parked_at) VALUES (3, 'in', 'advising', 'shop', 'e-2', 'university.enrolled.v1', '2026-11-20T12:00:00+00:00', 'ada', 'application/json', '{"tenant": "t"}', X'7b2273747564656e74223a22732d32222c226b6579223a22616461227d', 'events.university.enrolled.2', '{"ce-specversion": "1.0", "ce-id": "e-2", "ce-source": "shop", "ce-type": "university.enrolled.v1", "ce-partitionkey": "ada"}', 2, 'key-parked', '', 0, 1795176000.0);
INSERT INTO mediator_parked (number, direction, consumer, source, event_id, type, time, partition_key, content_type, extensions, data, subject, headers, sequence, reason, error, attempts, parked_at) VALUES (4, 'in', 'advising', 'shop', 'e-3', 'university.enrolled.v1', '2026-11-20T12:00:00+00:00', NULL, 'application/json', '{"tenant": "t"}', X'7b2273747564656e74223a22732d33222c226b6579223a6e756c6c7d', 'events.university.enrolled.3', '{"ce-specversion": "1.0", "ce-id": "e-3", "ce-source": "shop", "ce-type": "university.enrolled.v1"}', 3, 'process-died', '', 8, 1795176000.0);
