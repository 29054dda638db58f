-- What Flowise's Postgres Record Manager creates (3.1.3).
CREATE TABLE "upsertion_records" (
    uuid uuid PRIMARY KEY DEFAULT gen_random_uuid(), key text NOT NULL, namespace text NOT NULL,
    updated_at double precision NOT NULL, group_id text, doc_id text, UNIQUE (key, namespace)
);
CREATE INDEX updated_at_index ON "upsertion_records" (updated_at);
CREATE INDEX key_index ON "upsertion_records" (key);
CREATE INDEX namespace_index ON "upsertion_records" (namespace);
CREATE INDEX group_id_index ON "upsertion_records" (group_id);
CREATE INDEX doc_id_index ON "upsertion_records" (doc_id);
