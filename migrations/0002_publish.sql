-- Publishing: ids that producers choose for their events, so that sending an event again cannot make it happen twice.

-- The row commits with its event. A repeat finds it and is given the first answer; other content under the same id is refused, which is
-- what the hash is for. Kept 7 days, and not partitioned, because an id must be unique over all of them.
create table event_keys (
    partner_id    uuid not null,
    key           text not null check (length(key) between 1 and 200),
    event_id      uuid not null,
    content_hash  bytea not null check (length(content_hash) = 32),
    created_at    timestamptz not null default herald_now(),
    primary key (partner_id, key)
);
-- Serves: the janitor, which forgets ids that are a week old.
create index event_keys_created_at on event_keys (created_at);
