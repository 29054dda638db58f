-- The tables that the preset reads, as Trieve's migrations leave them (0.13.0).
CREATE TABLE datasets (
    id uuid PRIMARY KEY, name text NOT NULL, created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now(), organization_id uuid NOT NULL,
    server_configuration jsonb NOT NULL DEFAULT '{}', tracking_id text,
    deleted integer NOT NULL DEFAULT 0
);
CREATE TABLE chunk_metadata (
    id uuid PRIMARY KEY, link text, qdrant_point_id uuid NOT NULL,
    created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp NOT NULL DEFAULT now(),
    chunk_html text, metadata jsonb, tracking_id text, time_stamp timestamp,
    dataset_id uuid NOT NULL REFERENCES datasets ON UPDATE CASCADE ON DELETE CASCADE,
    weight double precision NOT NULL DEFAULT 1, location jsonb, image_urls text[],
    num_value double precision,
    CONSTRAINT chunk_metadata_tracking_id_dataset_id_key UNIQUE (tracking_id, dataset_id)
);
CREATE INDEX idx_card_metadata_qdrant_point_id ON chunk_metadata (qdrant_point_id);
