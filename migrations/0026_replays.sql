-- Jobs that send many finished deliveries again. First all that fits is counted, then it is put into the queue, oldest first and a little at a
-- time; a dry run ends with the count. Each step goes on behind `reached` and moves it in the same transaction, so that a crash at any moment
-- repeats nothing and leaves nothing out. A row that is being worked on is locked, so any number of nodes may do it at once.
create table replays (
    partner_id     uuid not null,
    id             uuid not null,
    state          text not null default 'counting' check (state in ('counting', 'queueing', 'done', 'cancelled')),
    dry_run        boolean not null,
    -- What is sent again: deliveries that ended so, and the rest only as far as it is there.
    of_state       text not null check (of_state in ('dead', 'delivered')),
    surface        text check (surface in ('redirect', 'notifications', 'webhooks')),
    external_key   text check (length(external_key) between 1 and 200),
    -- Those that were published under that name, the newest hundred.
    subscriptions  uuid[] check (cardinality(subscriptions) between 1 and 100),
    event_type     text check (length(event_type) between 1 and 200),
    from_at        timestamptz,
    until_at       timestamptz not null,
    -- Deliveries up to this one are behind it.
    reached        uuid not null,
    -- When the next step may be taken.
    due_at         timestamptz not null default herald_now(),
    matched        bigint not null default 0 check (matched >= 0),
    queued         bigint not null default 0 check (queued >= 0),
    skipped        bigint not null default 0 check (skipped >= 0),
    created_at     timestamptz not null default herald_now(),
    ended_at       timestamptz,
    primary key (partner_id, id),
    check ((surface is null) = (external_key is null) and (surface is null) = (subscriptions is null)),
    check ((ended_at is null) = (state in ('counting', 'queueing'))),
    check (not dry_run or (state <> 'queueing' and queued = 0 and skipped = 0)),
    check (state <> 'counting' or (queued = 0 and skipped = 0))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- One at a time for each partner.
create unique index replays_running on replays (partner_id) where state in ('counting', 'queueing');
-- Serves: the next step of any.
create index replays_due_at on replays (due_at) where state in ('counting', 'queueing');
