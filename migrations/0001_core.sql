-- The core under all three published APIs: who may call (partners, api_keys), where to send (callbacks), what for (subscriptions and
-- their event types), what happened (events), what is still to be delivered (queue) and what came of it (attempts).
--
-- Every table carries partner_id, and the keys of the hot ones begin with it, so that the schema can later be spread over several
-- PostgreSQL nodes by partner. Every text column has a length CHECK: a bound that lives only in code is a bound that will be forgotten.

-- Time. All SQL asks this one function, so that the clocks of the nodes do not matter. Tests replace the function to move time; nothing
-- else may. It is a plain expression so that the planner inlines it.
create function herald_now() returns timestamptz
    language sql stable parallel safe
    as $$ select statement_timestamp() $$;

-- The smallest version 7 uuid of a moment: the bound of a day's partition, and the start of a range scan over one millisecond.
create function herald_uuid7_floor(at timestamptz) returns uuid
    language sql immutable strict parallel safe
    as $$
        select (lpad(to_hex(floor(extract(epoch from at) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid
    $$;

-- A new version 7 uuid that shares the millisecond of another. Deliveries take their event's millisecond: "all deliveries of this event"
-- is then a short range of (partner_id, delivery_id) and needs no index of its own on hot tables.
create function herald_uuid7_beside(other uuid) returns uuid
    language sql volatile strict parallel safe
    as $$
        select encode(
            set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) placing substring(uuid_send(other) from 1 for 6) from 1 for 6), 52, 1), 53, 1),
            'hex')::uuid
    $$;

-- Partners own everything else.
create table partners (
    id          uuid primary key,
    name        text not null check (length(name) between 1 and 200),
    created_at  timestamptz not null default herald_now()
);

-- A key is shown once, when it is made; here are only what finds it (prefix) and what proves it (hash).
create table api_keys (
    id          uuid primary key,
    partner_id  uuid not null references partners (id),
    prefix      text not null check (length(prefix) between 3 and 32),
    hash        bytea not null check (length(hash) = 32),
    scopes      text[] not null check (scopes <@ array['partner', 'producer', 'operator'] and cardinality(scopes) > 0),
    created_at  timestamptz not null default herald_now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);
-- Serves: authenticate a request.
create index api_keys_prefix on api_keys (prefix);

-- The people that redirect sessions may speak of: an id, nothing else. An erased customer leaves a row behind so that the id is not taken
-- again and sessions that named it can say CustomerNotFound.
create table customers (
    id          uuid primary key,
    partner_id  uuid not null references partners (id),
    created_at  timestamptz not null default herald_now(),
    erased_at   timestamptz
);

-- Where to send. The redirect and webhooks surfaces make one per subscription; the notifications surface names them and shares them.
-- credentials, signing_key and previous_signing_key are sealed by the key ring and are never read by a query that answers a request.
create table callbacks (
    id                          uuid primary key,
    partner_id                  uuid not null references partners (id),
    surface                     text not null check (surface in ('redirect', 'notifications', 'webhooks')),
    name                        text check (length(name) between 1 and 200),
    url                         text not null check (length(url) between 1 and 2048),
    backup_url                  text check (length(backup_url) between 1 and 2048),
    batch_size                  integer not null default 1 check (batch_size between 1 and 200),
    credentials                 bytea check (length(credentials) <= 8192),
    signing_key                 bytea check (length(signing_key) <= 1024),
    previous_signing_key        bytea check (length(previous_signing_key) <= 1024),
    previous_signing_key_until  timestamptz,
    created_at                  timestamptz not null default herald_now(),
    updated_at                  timestamptz not null default herald_now(),
    check ((previous_signing_key is null) = (previous_signing_key_until is null))
);
create unique index callbacks_name on callbacks (partner_id, surface, name) where name is not null;

-- What for. external_key is the id or name that the surface publishes. A deleted row stays for the histories that name it, without its
-- callback's secrets; its external key is free again. version rises with every change and is what If-Match and the engine compare.
create table subscriptions (
    id               uuid primary key,
    partner_id       uuid not null references partners (id),
    surface          text not null check (surface in ('redirect', 'notifications', 'webhooks')),
    external_key     text not null check (length(external_key) between 1 and 200),
    callback_id      uuid not null references callbacks (id),
    state            text not null default 'active' check (state in ('active', 'paused', 'disabled', 'deleted')),
    state_reason     text check (length(state_reason) <= 1000),
    version          bigint not null default 1 check (version > 0),
    -- The partner's own delivery policy; null means the server's default.
    retry_delays_ms  bigint[] check (cardinality(retry_delays_ms) between 0 and 50),
    timeout_ms       integer check (timeout_ms > 0),
    rate_per_s       integer check (rate_per_s > 0),
    created_at       timestamptz not null default herald_now(),
    updated_at       timestamptz not null default herald_now()
);
create unique index subscriptions_external_key on subscriptions (partner_id, surface, external_key) where state <> 'deleted';
-- Serves: the history under an external key, whose earlier subscriptions are deleted.
create index subscriptions_ever on subscriptions (partner_id, surface, external_key, id);
-- Serves: list a partner's subscriptions of one surface, by cursor.
create index subscriptions_listing on subscriptions (partner_id, surface, id) where state <> 'deleted';

-- The event types of a subscription, which is what matching reads. exclusive_in names the room within which a type may be taken once:
-- for redirect the digest of the callback URL (DuplicateEntity), for notifications the partner while active, for webhooks the account.
create table subscription_event_types (
    partner_id       uuid not null,
    subscription_id  uuid not null references subscriptions (id),
    surface          text not null,
    event_type       text not null check (length(event_type) between 1 and 200),
    exclusive_in     bytea check (length(exclusive_in) <= 64),
    primary key (partner_id, event_type, subscription_id)
);
create unique index subscription_event_types_exclusive
    on subscription_event_types (partner_id, surface, event_type, exclusive_in) where exclusive_in is not null;
create index subscription_event_types_subscription on subscription_event_types (subscription_id);

-- Ids of the redirect surface are global and are claimed once, by one partner, for good.
create table redirect_ids (
    kind        text not null check (kind in ('subscription', 'session')),
    id          uuid not null,
    partner_id  uuid not null,
    primary key (kind, id)
);

-- Redirect sessions. content is what the partner sent, normalised; its digest tells a repeat from another request under the same id.
-- A session that is still 'Active' after expires_at is read as Expired: that is a fact about the clock, and nothing stores it twice.
create table redirect_sessions (
    partner_id      uuid not null,
    id              uuid not null,
    state           text not null default 'Active' check (state in ('Active', 'Cancelled', 'Completed')),
    type            text not null check (type in ('NewTransactionIntent', 'ExistingTransactionIntent', 'NewCustomer')),
    customer_id     uuid,
    content         bytea not null check (length(content) <= 65536),
    content_digest  bytea not null check (length(content_digest) = 32),
    token           bytea not null check (length(token) <= 512),
    version         bigint not null default 1 check (version > 0),
    created_at      timestamptz not null,
    updated_at      timestamptz not null,
    expires_at      timestamptz not null,
    primary key (partner_id, id),
    check (expires_at > created_at)
) with (fillfactor = 80);

-- First answers, by the request id that asked. The row commits with the change that it answers for, so that a repeat can neither be
-- executed twice nor be answered with something that did not happen. Kept 24 h.
create table idempotency (
    partner_id   uuid not null,
    request_id   uuid not null,
    fingerprint  bytea not null check (length(fingerprint) <= 128),
    status       smallint not null check (status between 100 and 599),
    answer       bytea not null check (length(answer) <= 2097152),
    created_at   timestamptz not null default herald_now(),
    primary key (partner_id, request_id)
);
-- Serves: the janitor, which forgets answers that are a day old.
create index idempotency_created_at on idempotency (created_at);

-- What happened. The payload is bytes: what was signed is never rewritten. Partitioned by day on the version 7 id, so that the id alone is
-- unique, and a day's events leave by DROP. There is no DEFAULT partition, because it would block making the days it holds rows of.
create table events (
    id            uuid not null,
    partner_id    uuid not null,
    type          text not null check (length(type) between 1 and 200),
    source        text not null check (length(source) between 1 and 200),
    payload       bytea not null check (length(payload) <= 1048576),
    attributes    jsonb,
    ordering_key  text check (length(ordering_key) between 1 and 200),
    occurred_at   timestamptz not null,
    matched       integer not null check (matched >= 0),
    primary key (id)
) partition by range (id);

-- What is still to be delivered, and nothing else. due_at answers "when may anyone next touch this row?" for first try, backoff, Retry-After
-- and lease expiry alike; 'infinity' means held (the subscription is paused or disabled).
create table queue (
    partner_id       uuid not null,
    delivery_id      uuid not null,
    event_id         uuid not null,
    subscription_id  uuid not null,
    attempts         integer not null default 0 check (attempts >= 0),
    due_at           timestamptz not null,
    lease_owner      uuid,
    lease_epoch      integer not null default 0,
    crashes          smallint not null default 0 check (crashes >= 0),
    probe            boolean not null default false,
    primary key (partner_id, delivery_id),
    check (due_at <> 'infinity' or lease_owner is null)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, fillfactor = 85);
-- Serves: claim what is due.
create index queue_due_at on queue (due_at);
-- Serves: hold, resume (oldest first), cancel and count by subscription.
create index queue_subscription on queue (subscription_id, due_at, delivery_id);

-- What came of it: append-only, one row for each attempt (numbered by their order, which nothing stores), and one more for an end that no attempt made (cancelled, expired). A row with
-- final_state ends its delivery; late marks a result that came after its lease had passed to another. Partitioned by day on the attempt's
-- own version 7 id.
create table attempts (
    partner_id       uuid not null,
    delivery_id      uuid not null,
    id               uuid not null,
    event_id         uuid not null,
    subscription_id  uuid not null,
    event_type       text not null check (length(event_type) between 1 and 200),
    outcome          text not null check (outcome in
                         ('delivered', 'refused', 'timed_out', 'unreachable', 'blocked', 'cancelled', 'expired', 'crashed')),
    final_state      text check (final_state in ('delivered', 'dead', 'cancelled', 'expired')),
    late             boolean not null default false,
    status           smallint check (status between 0 and 999),
    started_at       timestamptz not null,
    latency_ms       integer not null check (latency_ms >= 0),
    response         bytea check (length(response) <= 16384),
    detail           text check (length(detail) <= 1000),
    primary key (partner_id, delivery_id, id),
    check (not (late and final_state is not null))
) partition by range (id);
-- Serves: the history of a subscription, newest first.
create index attempts_subscription on attempts (subscription_id, id);

-- Makes one day's partitions where they are missing. Called ahead of time by the janitor and, as a last resort, by an insert that found none.
-- A new table is made and then attached, which takes a weaker lock than making it in place.
create function herald_make_day(day date) returns void
    language plpgsql
    as $$
        declare
            parent text;
            child text;
            low uuid := herald_uuid7_floor(day::timestamp at time zone 'UTC');
            high uuid := herald_uuid7_floor((day + 1)::timestamp at time zone 'UTC');
        begin
            foreach parent in array array['events', 'attempts'] loop
                child := parent || '_' || to_char(day, 'YYYYMMDD');
                -- One maker at a time, across nodes.
                perform pg_advisory_xact_lock(hashtext('herald_make_day:' || child));
                if to_regclass(child) is null then
                    execute format('create table %I (like %I including defaults including constraints including indexes)', child, parent);
                    execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, child, low, high);
                end if;
            end loop;
        end
    $$;
