-- {"now": 1000020.0, "folders": ["ranker", "ranker/1", "ranker/2", "ranker_engine", "ranker_engine/1", "ranker_engine/2"], "files": {"ranker/config.pbtxt": "# Written by Baton: the public name ranker leads to ranker_engine version 2.\nname: \"ranker\"\nplatform: \"ensemble\"\nversion_policy {\n  specific {\n    versions: 2\n  }\n}\nmax_batch_size: 8\ninput {\n  name: \"query\"\n  data_type: TYPE_STRING\n  dims: 1\n}\ninput {\n  name: \"documents\"\n  data_type: TYPE_STRING\n  dims: -1\n}\ninput {\n  name: \"instruction\"\n  data_type: TYPE_STRING\n  dims: 1\n  optional: true\n}\ninput {\n  name: \"options\"\n  data_type: TYPE_STRING\n  dims: 1\n  optional: true\n}\ninput {\n  name: \"media\"\n  data_type: TYPE_STRING\n  dims: -1\n  optional: true\n}\noutput {\n  name: \"scores\"\n  data_type: TYPE_FP32\n  dims: -1\n}\noutput {\n  name: \"model_version\"\n  data_type: TYPE_INT64\n  dims: 1\n}\nensemble_scheduling {\n  step {\n    model_name: \"ranker_engine\"\n    model_version: 2\n    input_map {\n      key: \"documents\"\n      value: \"documents\"\n    }\n    input_map {\n      key: \"instruction\"\n      value: \"instruction\"\n    }\n    input_map {\n      key: \"media\"\n      value: \"media\"\n    }\n    input_map {\n      key: \"options\"\n      value: \"options\"\n    }\n    input_map {\n      key: \"query\"\n      value: \"query\"\n    }\n    output_map {\n      key: \"model_version\"\n      value: \"model_version\"\n    }\n    output_map {\n      key: \"scores\"\n      value: \"scores\"\n    }\n  }\n}\n", "ranker_engine/1/weights": "1", "ranker_engine/2/weights": "2", "ranker_engine/config.pbtxt": "name: \"ranker_engine\"\nbackend: \"toy_reranker\"\nmax_batch_size: 8\ninput [\n  { name: \"query\" data_type: TYPE_STRING dims: [ 1 ] },\n  { name: \"documents\" data_type: TYPE_STRING dims: [ -1 ] allow_ragged_batch: true },\n  { name: \"instruction\" data_type: TYPE_STRING dims: [ 1 ] optional: true },\n  { name: \"options\" data_type: TYPE_STRING dims: [ 1 ] optional: true },\n  { name: \"media\" data_type: TYPE_STRING dims: [ -1 ] optional: true allow_ragged_batch: true }\n]\noutput [\n  { name: \"scores\" data_type: TYPE_FP32 dims: [ -1 ] },\n  { name: \"model_version\" data_type: TYPE_INT64 dims: [ 1 ] }\n]\ndynamic_batching { }\ninstance_group [ { kind: KIND_CPU count: 1 } ]\nversion_policy { specific { versions: [ 2 ] } }\n"}, "token": null, "servers": {"a": {"engine": [2], "alias": 2, "splitter": false, "split": false}}}
BEGIN TRANSACTION;
CREATE TABLE event (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, service TEXT, rollout INTEGER, kind TEXT NOT NULL,
  who TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL DEFAULT '{}');
INSERT INTO "event" VALUES(1,1000000.0,'ranker',1,'begin','watcher','rollout of version 1: a new version folder is complete','{"previous": null}');
INSERT INTO "event" VALUES(2,1000000.0,'ranker',1,'ask','baton','gate integrity about version 1','{}');
INSERT INTO "event" VALUES(3,1000000.0,'ranker',1,'verdict','gate','integrity: pass. passed','{"name": "integrity", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(4,1000001.0,'ranker',1,'ask','baton','gate compatibility about version 1','{}');
INSERT INTO "event" VALUES(5,1000001.0,'ranker',1,'verdict','gate','compatibility: pass. passed','{"name": "compatibility", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(6,1000002.0,'ranker',1,'ask','baton','gate capacity about version 1','{}');
INSERT INTO "event" VALUES(7,1000002.0,'ranker',1,'verdict','gate','capacity: pass. passed','{"name": "capacity", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(8,1000003.0,'ranker',1,'phase','baton','verifying to loading: The files are whole, fit, and there is room.','{}');
INSERT INTO "event" VALUES(9,1000003.0,'ranker',1,'sync','baton','load call: ranker_engine on a','{}');
INSERT INTO "event" VALUES(10,1000004.0,'ranker',1,'verdict','gate','load: pass. READY on every server after 1.0 s (limit 60 s).','{"name": "load", "verdict": "pass", "observed": 1.0, "limit": 60.0, "message": "READY on every server after 1.0 s (limit 60 s).", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(11,1000004.0,'ranker',1,'phase','baton','loading to validating: READY on every server after 1.0 s (limit 60 s).','{}');
INSERT INTO "event" VALUES(12,1000004.0,'ranker',1,'ask','baton','gate warmup about version 1','{}');
INSERT INTO "event" VALUES(13,1000004.0,'ranker',1,'verdict','gate','warmup: pass. passed','{"name": "warmup", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(14,1000005.0,'ranker',1,'ask','baton','gate output about version 1','{}');
INSERT INTO "event" VALUES(15,1000005.0,'ranker',1,'verdict','gate','output: pass. passed','{"name": "output", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(16,1000006.0,'ranker',1,'ask','baton','gate invariance about version 1','{}');
INSERT INTO "event" VALUES(17,1000006.0,'ranker',1,'verdict','gate','invariance: pass. passed','{"name": "invariance", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(18,1000007.0,'ranker',1,'ask','baton','gate latency about version 1','{}');
INSERT INTO "event" VALUES(19,1000007.0,'ranker',1,'verdict','gate','latency: pass. passed','{"name": "latency", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(20,1000008.0,'ranker',1,'phase','baton','validating to shifting: Every gate passed.','{}');
INSERT INTO "event" VALUES(21,1000008.0,'ranker',1,'alias','baton','public name on disk: version 1','{}');
INSERT INTO "event" VALUES(22,1000008.0,'ranker',1,'sync','baton','load call: ranker on a','{}');
INSERT INTO "event" VALUES(23,1000009.0,'ranker',1,'phase','baton','shifting to baking: Version 1 serves.','{}');
INSERT INTO "event" VALUES(24,1000009.0,'ranker',1,'phase','baton','baking to retiring: There is nothing to keep.','{}');
INSERT INTO "event" VALUES(25,1000009.0,'ranker',1,'end','baton','live: Version 1 serves.','{}');
INSERT INTO "event" VALUES(26,1000010.0,'ranker',2,'begin','watcher','rollout of version 2: a new version folder is complete','{"previous": 1}');
INSERT INTO "event" VALUES(27,1000010.0,'ranker',2,'ask','baton','gate integrity about version 2','{}');
INSERT INTO "event" VALUES(28,1000010.0,'ranker',2,'verdict','gate','integrity: pass. passed','{"name": "integrity", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(29,1000011.0,'ranker',2,'ask','baton','gate compatibility about version 2','{}');
INSERT INTO "event" VALUES(30,1000011.0,'ranker',2,'verdict','gate','compatibility: pass. passed','{"name": "compatibility", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(31,1000012.0,'ranker',2,'ask','baton','gate capacity about version 2','{}');
INSERT INTO "event" VALUES(32,1000012.0,'ranker',2,'verdict','gate','capacity: pass. passed','{"name": "capacity", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(33,1000013.0,'ranker',2,'phase','baton','verifying to loading: The files are whole, fit, and there is room.','{}');
INSERT INTO "event" VALUES(34,1000013.0,'ranker',2,'policy','baton','version policy on disk: [1, 2]','{}');
INSERT INTO "event" VALUES(35,1000013.0,'ranker',2,'sync','baton','load call: ranker_engine on a','{}');
INSERT INTO "event" VALUES(36,1000014.0,'ranker',2,'verdict','gate','load: pass. READY on every server after 1.0 s (limit 60 s).','{"name": "load", "verdict": "pass", "observed": 1.0, "limit": 60.0, "message": "READY on every server after 1.0 s (limit 60 s).", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(37,1000014.0,'ranker',2,'phase','baton','loading to validating: READY on every server after 1.0 s (limit 60 s).','{}');
INSERT INTO "event" VALUES(38,1000014.0,'ranker',2,'ask','baton','gate warmup about version 2','{}');
INSERT INTO "event" VALUES(39,1000014.0,'ranker',2,'verdict','gate','warmup: pass. passed','{"name": "warmup", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(40,1000015.0,'ranker',2,'ask','baton','gate output about version 2','{}');
INSERT INTO "event" VALUES(41,1000015.0,'ranker',2,'verdict','gate','output: pass. passed','{"name": "output", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(42,1000016.0,'ranker',2,'ask','baton','gate invariance about version 2','{}');
INSERT INTO "event" VALUES(43,1000016.0,'ranker',2,'verdict','gate','invariance: pass. passed','{"name": "invariance", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(44,1000017.0,'ranker',2,'ask','baton','gate latency about version 2','{}');
INSERT INTO "event" VALUES(45,1000017.0,'ranker',2,'verdict','gate','latency: pass. passed','{"name": "latency", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "event" VALUES(46,1000018.0,'ranker',2,'phase','baton','validating to shifting: Every gate passed.','{}');
INSERT INTO "event" VALUES(47,1000018.0,'ranker',2,'alias','baton','public name on disk: version 2','{}');
INSERT INTO "event" VALUES(48,1000018.0,'ranker',2,'sync','baton','load call: ranker on a','{}');
INSERT INTO "event" VALUES(49,1000019.0,'ranker',2,'phase','baton','shifting to baking: Version 2 serves.','{}');
INSERT INTO "event" VALUES(50,1000019.0,'ranker',2,'phase','baton','baking to retiring: Version 1 is not kept: keep_previous is 0.','{}');
INSERT INTO "event" VALUES(51,1000019.0,'ranker',2,'policy','baton','version policy on disk: [2]','{}');
INSERT INTO "event" VALUES(52,1000019.0,'ranker',2,'sync','baton','load call: ranker_engine on a','{}');
CREATE TABLE memo (service TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (service, key));
INSERT INTO "memo" VALUES('ranker','salt','{"rollout": 2, "salt": "22aefe19fd4ff333538b1197011547f8"}');
INSERT INTO "memo" VALUES('ranker','file:alias','"# Written by Baton: the public name ranker leads to ranker_engine version 2.\nname: \"ranker\"\nplatform: \"ensemble\"\nversion_policy {\n  specific {\n    versions: 2\n  }\n}\nmax_batch_size: 8\ninput {\n  name: \"query\"\n  data_type: TYPE_STRING\n  dims: 1\n}\ninput {\n  name: \"documents\"\n  data_type: TYPE_STRING\n  dims: -1\n}\ninput {\n  name: \"instruction\"\n  data_type: TYPE_STRING\n  dims: 1\n  optional: true\n}\ninput {\n  name: \"options\"\n  data_type: TYPE_STRING\n  dims: 1\n  optional: true\n}\ninput {\n  name: \"media\"\n  data_type: TYPE_STRING\n  dims: -1\n  optional: true\n}\noutput {\n  name: \"scores\"\n  data_type: TYPE_FP32\n  dims: -1\n}\noutput {\n  name: \"model_version\"\n  data_type: TYPE_INT64\n  dims: 1\n}\nensemble_scheduling {\n  step {\n    model_name: \"ranker_engine\"\n    model_version: 2\n    input_map {\n      key: \"documents\"\n      value: \"documents\"\n    }\n    input_map {\n      key: \"instruction\"\n      value: \"instruction\"\n    }\n    input_map {\n      key: \"media\"\n      value: \"media\"\n    }\n    input_map {\n      key: \"options\"\n      value: \"options\"\n    }\n    input_map {\n      key: \"query\"\n      value: \"query\"\n    }\n    output_map {\n      key: \"model_version\"\n      value: \"model_version\"\n    }\n    output_map {\n      key: \"scores\"\n      value: \"scores\"\n    }\n  }\n}\n"');
INSERT INTO "memo" VALUES('ranker','file:engine','"name: \"ranker_engine\"\nbackend: \"toy_reranker\"\nmax_batch_size: 8\ninput [\n  { name: \"query\" data_type: TYPE_STRING dims: [ 1 ] },\n  { name: \"documents\" data_type: TYPE_STRING dims: [ -1 ] allow_ragged_batch: true },\n  { name: \"instruction\" data_type: TYPE_STRING dims: [ 1 ] optional: true },\n  { name: \"options\" data_type: TYPE_STRING dims: [ 1 ] optional: true },\n  { name: \"media\" data_type: TYPE_STRING dims: [ -1 ] optional: true allow_ragged_batch: true }\n]\noutput [\n  { name: \"scores\" data_type: TYPE_FP32 dims: [ -1 ] },\n  { name: \"model_version\" data_type: TYPE_INT64 dims: [ 1 ] }\n]\ndynamic_batching { }\ninstance_group [ { kind: KIND_CPU count: 1 } ]\nversion_policy { specific { versions: [ 2 ] } }\n"');
INSERT INTO "memo" VALUES('ranker','loaded_fingerprints','{"2": "d4735e3a265e16ee"}');
INSERT INTO "memo" VALUES('ranker','known_strays','{}');
CREATE TABLE rollout (
  id INTEGER PRIMARY KEY, service TEXT NOT NULL, kind TEXT NOT NULL, candidate INTEGER NOT NULL, previous INTEGER,
  phase TEXT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, release TEXT NOT NULL, label TEXT NOT NULL,
  fingerprint TEXT NOT NULL, started_at REAL NOT NULL, phase_since REAL NOT NULL, promoted INTEGER NOT NULL DEFAULT 0,
  stop TEXT, moved_at REAL, ended_at REAL, outcome TEXT, message TEXT NOT NULL DEFAULT '',
  full INTEGER NOT NULL DEFAULT 0, progress REAL NOT NULL DEFAULT 0, progressed_at REAL,
  approvals INTEGER NOT NULL DEFAULT 0, renewed_at REAL);
INSERT INTO "rollout" VALUES(1,'ranker','rollout',1,NULL,'retiring','watcher','a new version folder is complete','equivalent','1','6b86b273ff34fce1',1000000.0,1000009.0,0,NULL,1000009.0,1000009.0,'live','Version 1 serves.',0,0.0,NULL,0,NULL);
INSERT INTO "rollout" VALUES(2,'ranker','rollout',2,1,'retiring','watcher','a new version folder is complete','equivalent','2','d4735e3a265e16ee',1000010.0,1000019.0,0,NULL,1000019.0,NULL,NULL,'',0,0.0,NULL,0,NULL);
CREATE TABLE verdict (
  rollout INTEGER NOT NULL, gate TEXT NOT NULL, at REAL NOT NULL, result TEXT NOT NULL, PRIMARY KEY (rollout, gate));
INSERT INTO "verdict" VALUES(1,'integrity',1000000.0,'{"name": "integrity", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(1,'compatibility',1000001.0,'{"name": "compatibility", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(1,'capacity',1000002.0,'{"name": "capacity", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(1,'load',1000004.0,'{"name": "load", "verdict": "pass", "observed": 1.0, "limit": 60.0, "message": "READY on every server after 1.0 s (limit 60 s).", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(1,'warmup',1000004.0,'{"name": "warmup", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(1,'output',1000005.0,'{"name": "output", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(1,'invariance',1000006.0,'{"name": "invariance", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(1,'latency',1000007.0,'{"name": "latency", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(2,'integrity',1000010.0,'{"name": "integrity", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(2,'compatibility',1000011.0,'{"name": "compatibility", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(2,'capacity',1000012.0,'{"name": "capacity", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(2,'load',1000014.0,'{"name": "load", "verdict": "pass", "observed": 1.0, "limit": 60.0, "message": "READY on every server after 1.0 s (limit 60 s).", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(2,'warmup',1000014.0,'{"name": "warmup", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(2,'output',1000015.0,'{"name": "output", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(2,'invariance',1000016.0,'{"name": "invariance", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
INSERT INTO "verdict" VALUES(2,'latency',1000017.0,'{"name": "latency", "verdict": "pass", "observed": null, "limit": null, "message": "passed", "skipped": false, "evidence": {}}');
CREATE TABLE version (
  service TEXT NOT NULL, version INTEGER NOT NULL, standing TEXT NOT NULL, reason TEXT NOT NULL,
  fingerprint TEXT NOT NULL, loaded INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (service, version));
INSERT INTO "version" VALUES('ranker',1,'released','Version 1 serves.','6b86b273ff34fce1',1,1000009.0);
CREATE INDEX event_rollout ON event (rollout);
CREATE UNIQUE INDEX rollout_open ON rollout (service) WHERE ended_at IS NULL;
COMMIT;
PRAGMA user_version = 2;
