-- The tables that the preset reads, as Dify's migrations leave them (1.13).
CREATE TABLE apps (
    id uuid PRIMARY KEY, tenant_id uuid NOT NULL, name varchar(255) NOT NULL,
    mode varchar(255) NOT NULL, status varchar(255) DEFAULT 'normal' NOT NULL
);
CREATE TABLE app_annotation_settings (
    id uuid PRIMARY KEY, app_id uuid NOT NULL, score_threshold double precision DEFAULT 0 NOT NULL,
    collection_binding_id uuid NOT NULL, created_user_id uuid NOT NULL,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL, updated_user_id uuid NOT NULL,
    updated_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL
);
CREATE INDEX app_annotation_settings_app_idx ON app_annotation_settings (app_id);
CREATE TABLE message_annotations (
    id uuid PRIMARY KEY, app_id uuid NOT NULL, conversation_id uuid, message_id uuid,
    content text NOT NULL, account_id uuid NOT NULL,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL,
    updated_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL,
    question text NOT NULL, hit_count integer DEFAULT 0 NOT NULL
);
CREATE INDEX message_annotation_app_idx ON message_annotations (app_id);
CREATE TABLE dataset_collection_bindings (
    id uuid PRIMARY KEY, provider_name varchar(255) NOT NULL, model_name varchar(255) NOT NULL,
    collection_name varchar(64) NOT NULL,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL,
    type varchar(40) DEFAULT 'dataset' NOT NULL
);
CREATE TABLE datasets (
    id uuid PRIMARY KEY, tenant_id uuid NOT NULL, name varchar(255) NOT NULL, description text,
    provider varchar(255) DEFAULT 'vendor' NOT NULL,
    permission varchar(255) DEFAULT 'only_me' NOT NULL, data_source_type varchar(255),
    indexing_technique varchar(255), index_struct text, created_by uuid NOT NULL,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL, updated_by uuid,
    updated_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL,
    embedding_model varchar(255) DEFAULT 'text-embedding-ada-002',
    embedding_model_provider varchar(255) DEFAULT 'openai', collection_binding_id uuid,
    retrieval_model jsonb, built_in_field_enabled boolean DEFAULT false NOT NULL,
    keyword_number integer DEFAULT 10, icon_info jsonb,
    runtime_mode varchar(255) DEFAULT 'general', pipeline_id uuid, chunk_structure varchar(255),
    enable_api boolean DEFAULT true NOT NULL, is_multimodal boolean DEFAULT false NOT NULL,
    summary_index_setting jsonb
);
CREATE TABLE documents (
    id uuid PRIMARY KEY, tenant_id uuid NOT NULL, dataset_id uuid NOT NULL,
    "position" integer NOT NULL, data_source_type varchar(255) NOT NULL, data_source_info text,
    dataset_process_rule_id uuid, batch varchar(255) NOT NULL, name varchar(255) NOT NULL,
    created_from varchar(255) NOT NULL, created_by uuid NOT NULL, created_api_request_id uuid,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL, processing_started_at timestamp,
    file_id text, word_count integer, parsing_completed_at timestamp,
    cleaning_completed_at timestamp, splitting_completed_at timestamp, tokens integer,
    indexing_latency double precision, completed_at timestamp, is_paused boolean DEFAULT false,
    paused_by uuid, paused_at timestamp, error text, stopped_at timestamp,
    indexing_status varchar(255) DEFAULT 'waiting' NOT NULL, enabled boolean DEFAULT true NOT NULL,
    disabled_at timestamp, disabled_by uuid, archived boolean DEFAULT false NOT NULL,
    archived_reason varchar(255), archived_by uuid, archived_at timestamp,
    updated_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL, doc_type varchar(40),
    doc_metadata jsonb, doc_form varchar(255) DEFAULT 'text_model' NOT NULL,
    doc_language varchar(255), need_summary boolean DEFAULT false NOT NULL
);
CREATE INDEX document_dataset_id_idx ON documents (dataset_id);
CREATE TABLE document_segments (
    id uuid PRIMARY KEY, tenant_id uuid NOT NULL, dataset_id uuid NOT NULL,
    document_id uuid NOT NULL, "position" integer NOT NULL, content text NOT NULL,
    word_count integer NOT NULL, tokens integer NOT NULL, keywords json,
    index_node_id varchar(255), index_node_hash varchar(255), hit_count integer NOT NULL,
    enabled boolean DEFAULT true NOT NULL, disabled_at timestamp, disabled_by uuid,
    status varchar(255) DEFAULT 'waiting' NOT NULL, created_by uuid NOT NULL,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL, indexing_at timestamp,
    completed_at timestamp, error text, stopped_at timestamp, answer text, updated_by uuid,
    updated_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL
);
CREATE INDEX document_segment_node_dataset_idx ON document_segments (index_node_id, dataset_id);
CREATE TABLE child_chunks (
    id uuid PRIMARY KEY, tenant_id uuid NOT NULL, dataset_id uuid NOT NULL,
    document_id uuid NOT NULL, segment_id uuid NOT NULL, "position" integer NOT NULL,
    content text NOT NULL, word_count integer NOT NULL, index_node_id varchar(255),
    index_node_hash varchar(255), type varchar(255) DEFAULT 'automatic' NOT NULL,
    created_by uuid NOT NULL, created_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL,
    updated_by uuid, updated_at timestamp DEFAULT CURRENT_TIMESTAMP(0) NOT NULL,
    indexing_at timestamp, completed_at timestamp, error text
);
CREATE INDEX child_chunks_node_idx ON child_chunks (index_node_id, dataset_id);
CREATE TABLE document_segment_summaries (
    id uuid PRIMARY KEY, dataset_id uuid NOT NULL, document_id uuid NOT NULL,
    chunk_id uuid NOT NULL, summary_content text, summary_index_node_id varchar(255),
    summary_index_node_hash varchar(255), tokens integer,
    status varchar(32) DEFAULT 'generating' NOT NULL, error text,
    enabled boolean DEFAULT true NOT NULL, disabled_at timestamp, disabled_by uuid,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at timestamp DEFAULT CURRENT_TIMESTAMP NOT NULL
);
CREATE TABLE segment_attachment_bindings (
    id uuid PRIMARY KEY, tenant_id uuid NOT NULL, dataset_id uuid NOT NULL,
    document_id uuid NOT NULL, segment_id uuid NOT NULL, attachment_id uuid NOT NULL,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP NOT NULL
);
