-- {"now": 1000001.0, "folders": ["ranker_engine", "ranker_engine/1"], "files": {"ranker_engine/1/weights": "1", "ranker_engine/config.pbtxt": "name: \"ranker_engine\"\nbackend: \"toy_reranker\"\nmax_batch_size: 8\ninput [\n  { name: \"query\" data_type: TYPE_STRING dims: [ 1 ] },\n  { name: \"documents\" data_type: TYPE_STRING dims: [ -1 ] allow_ragged_batch: true },\n  { name: \"instruction\" data_type: TYPE_STRING dims: [ 1 ] optional: true },\n  { name: \"options\" data_type: TYPE_STRING dims: [ 1 ] optional: true },\n  { name: \"media\" data_type: TYPE_STRING dims: [ -1 ] optional: true allow_ragged_batch: true }\n]\noutput [\n  { name: \"scores\" data_type: TYPE_FP32 dims: [ -1 ] },\n  { name: \"model_version\" data_type: TYPE_INT64 dims: [ 1 ] }\n]\ndynamic_batching { }\ninstance_group [ { kind: KIND_CPU count: 1 } ]\nversion_policy { specific { versions: [ 1 ] } }\n"}, "token": null, "servers": {"a": {"engine": [1], "alias": null, "splitter": false, "split": false}}}
BEGIN TRANSACTION;
CREATE TABLE event (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, service TEXT, rollout INTEGER, kind TEXT NOT NULL,
  who TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL DEFAULT '{}');
INSERT INTO "event" VALUES(1,1000000.0,'ranker',1,'begin','watcher','{"reason": "begun", "kind": "rollout", "version": 1, "why": {"reason": "adopted"}}','{"previous": null}');
INSERT INTO "event" VALUES(2,1000000.0,'ranker',1,'ask','baton','{"reason": "gate_asked", "gate": "integrity", "version": 1}','{}');
INSERT INTO "event" VALUES(3,1000000.0,'ranker',1,'verdict','gate','{"reason": "verdict", "gate": "integrity", "said": "passed", "verdict": "pass"}','{"name": "integrity", "verdict": "pass", "message": "passed", "observed": null, "limit": null, "skipped": false, "evidence": {}}');
CREATE TABLE memo (service TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (service, key));
INSERT INTO "memo" VALUES('ranker','loaded_fingerprints','{"1": "6b86b273ff34fce1"}');
INSERT INTO "memo" VALUES('ranker','known_strays','{}');
INSERT INTO "memo" VALUES('ranker','file:engine','"name: \"ranker_engine\"\nbackend: \"toy_reranker\"\nmax_batch_size: 8\ninput [\n  { name: \"query\" data_type: TYPE_STRING dims: [ 1 ] },\n  { name: \"documents\" data_type: TYPE_STRING dims: [ -1 ] allow_ragged_batch: true },\n  { name: \"instruction\" data_type: TYPE_STRING dims: [ 1 ] optional: true },\n  { name: \"options\" data_type: TYPE_STRING dims: [ 1 ] optional: true },\n  { name: \"media\" data_type: TYPE_STRING dims: [ -1 ] optional: true allow_ragged_batch: true }\n]\noutput [\n  { name: \"scores\" data_type: TYPE_FP32 dims: [ -1 ] },\n  { name: \"model_version\" data_type: TYPE_INT64 dims: [ 1 ] }\n]\ndynamic_batching { }\ninstance_group [ { kind: KIND_CPU count: 1 } ]\nversion_policy { specific { versions: [ 1 ] } }\n"');
INSERT INTO "memo" VALUES('ranker','salt','{"rollout": 1, "salt": "df5e4a58427d262772228bfc2ce015ff"}');
CREATE TABLE rollout (
  id INTEGER PRIMARY KEY, service TEXT NOT NULL, kind TEXT NOT NULL, candidate INTEGER NOT NULL, previous INTEGER,
  phase TEXT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, release TEXT NOT NULL, label TEXT NOT NULL,
  fingerprint TEXT NOT NULL, started_at REAL NOT NULL, phase_since REAL NOT NULL, promoted INTEGER NOT NULL DEFAULT 0,
  stop TEXT, moved_at REAL, ended_at REAL, outcome TEXT, message TEXT NOT NULL DEFAULT '',
  full INTEGER NOT NULL DEFAULT 0, progress REAL NOT NULL DEFAULT 0, progressed_at REAL,
  approvals INTEGER NOT NULL DEFAULT 0, renewed_at REAL);
INSERT INTO "rollout" VALUES(1,'ranker','rollout',1,NULL,'verifying','watcher','{"reason": "adopted"}','equivalent','1','6b86b273ff34fce1',1000000.0,1000000.0,0,NULL,NULL,NULL,NULL,'',0,0.0,NULL,0,NULL);
CREATE TABLE verdict (
  rollout INTEGER NOT NULL, gate TEXT NOT NULL, at REAL NOT NULL, result TEXT NOT NULL, PRIMARY KEY (rollout, gate));
INSERT INTO "verdict" VALUES(1,'integrity',1000000.0,'{"name": "integrity", "verdict": "pass", "message": "passed", "observed": null, "limit": null, "skipped": false, "evidence": {}}');
CREATE TABLE version (
  service TEXT NOT NULL, version INTEGER NOT NULL, standing TEXT NOT NULL, reason TEXT NOT NULL,
  fingerprint TEXT NOT NULL, loaded INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (service, version));
CREATE INDEX event_rollout ON event (rollout);
CREATE UNIQUE INDEX rollout_open ON rollout (service) WHERE ended_at IS NULL;
COMMIT;
PRAGMA user_version = 3;
