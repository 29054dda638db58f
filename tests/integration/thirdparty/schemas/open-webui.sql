-- The tables that the preset reads, as Open WebUI's migrations leave them on PostgreSQL (0.10).
CREATE TABLE file (
    id varchar PRIMARY KEY, user_id varchar, hash text, filename text, path text, data json,
    meta json, created_at bigint, updated_at bigint
);
CREATE TABLE knowledge (
    id text PRIMARY KEY, user_id text NOT NULL, name text NOT NULL, description text, meta json,
    created_at bigint NOT NULL, updated_at bigint
);
CREATE TABLE knowledge_file (
    id text PRIMARY KEY, user_id text NOT NULL,
    knowledge_id text NOT NULL REFERENCES knowledge ON DELETE CASCADE,
    file_id varchar NOT NULL REFERENCES file ON DELETE CASCADE,
    created_at bigint NOT NULL, updated_at bigint NOT NULL,
    CONSTRAINT uq_knowledge_file_knowledge_file UNIQUE (knowledge_id, file_id)
);
CREATE INDEX ix_knowledge_file_knowledge_id ON knowledge_file (knowledge_id);
CREATE INDEX ix_knowledge_file_file_id ON knowledge_file (file_id);
CREATE TABLE memory (
    id varchar PRIMARY KEY, user_id varchar, content text, updated_at bigint, created_at bigint
);
