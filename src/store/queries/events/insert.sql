-- Stores events together with the means to deliver them: one queue row for each subscription that matches. Matching happens here, in the
-- statement that inserts, so that it cannot be stale. The first $11 rows are born leased to this node, which sends them from memory; rows
-- beyond that are due at once for whoever has room, and so are those of the subscriptions in $13, which wait behind others. A subscription that is paused or disabled gets its row held. What leaves in batches is
-- due at once and leased to nobody: it is gathered first. Each event comes with an id for the first delivery of those that can be sent at once
-- ($14), which mostly is all there are; making one here costs more.
--
-- An event with an ordering key gets in line behind those of its key that are still unfinished, and waits unless it is the first. Its line's
-- row is locked by being written, in the order in which everybody locks lines, and answers with its newest numbers, so that neither a writer
-- on another node nor a finish can slip in between. Without ordering keys none of this touches anything.
--
-- An event without an ordering key that matches more than 1,000 subscriptions gets no queue rows here: whom it matched is written down in
-- chunks (fanouts), which become queue rows by themselves.
--
-- Sessions that were cancelled ($15 to $18, $24) and answers to keep ($19 to $23) are written by the same statement, which is a transaction by itself.
-- They were read without a lock: each is written only if it still is as it was read, and unless all of them are, nothing is. A session that was
-- not even read, but remembered ($24), has to be as reading it would have found it: not expired, its customer not erased, and cancelled at what
-- is about the present by the database's time.
--
-- What is not needed is left out: the sections named "alongside" where there are neither sessions nor answers, which then touches neither table,
-- and those named "ordered" where no event has an ordering key.
--
-- Answers with a row for each delivery, with one that names no delivery for each event that matched nobody or has fanned out, and with one that
-- names no event if there was none.
with
--{ alongside
cancelled as (
    update redirect_sessions s set state = 'Cancelled', version = c.version, updated_at = c.updated_at
    from unnest($15::uuid[], $16::uuid[], $17::bigint[], $18::timestamptz[], $24::boolean[]) as c (partner_id, id, version, updated_at, remembered)
    -- Written so that it can only be looked up in the index, see docs/decisions/0027.
    where s.partner_id = any (array[c.partner_id]) and s.id between c.id and c.id
      and s.state = 'Active' and s.version = c.version - 1
      and (not c.remembered
           or s.expires_at > herald_now()
              and c.updated_at between herald_now() - interval '1 second' and herald_now() + interval '1 second'
              and (s.customer_id is null
                   or (select k.erased_at is null from customers k where k.id = s.customer_id and k.partner_id = s.partner_id) is true))
    returning s.id
),
answered as (
    insert into idempotency (partner_id, request_id, fingerprint, status, answer)
    select * from unnest($19::uuid[], $20::uuid[], $21::bytea[], $22::smallint[], $23::bytea[]) order by 1, 2
    on conflict (partner_id, request_id) do update
        set fingerprint = excluded.fingerprint, status = excluded.status, answer = excluded.answer, created_at = herald_now()
        where idempotency.created_at < herald_now() - interval '24 hours'
    returning request_id
),
--}
incoming as materialized (
    select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::timestamptz[], $7::text[], $8::text[], $12::bigint[],
                         $14::uuid[])
        with ordinality as e (id, partner_id, type, source, payload, occurred_at, attributes, ordering_key, line, delivery_id, number)
),
matched as materialized (
    select e.id as event_id, e.partner_id, e.number, e.line, e.delivery_id, s.id as subscription_id, s.state = 'active' as flows,
           -- No other surface has batches, and for the others the callback need not be looked at.
           s.surface = 'notifications' and (select c.batch_size > 1 from callbacks c where c.id = s.callback_id) as batched,
           s.id = any ($13::uuid[]) as set_aside
    from incoming e
    join subscription_event_types t on t.partner_id = e.partner_id and t.event_type = e.type
        and (t.campaign_names is null or e.attributes::jsonb ->> 'campaignName' = any (t.campaign_names))
    join subscriptions s on s.id = t.subscription_id and s.state <> 'deleted'
),
counted as materialized (
    select event_id, count(*) as matched, count(*) > 1000 and min(line) is null as is_large from matched group by event_id
),
fanned_out as (
    insert into fanouts (partner_id, event_id, chunk, subscriptions, due_from)
    select partner_id, event_id, chunk, array_agg(subscription_id order by subscription_id),
           herald_now() + chunk * 1000 * interval '50 microseconds'
    from (select m.partner_id, m.event_id, m.subscription_id,
                 (row_number() over (partition by m.event_id order by m.subscription_id) - 1) / 1000 as chunk
          from matched m where m.event_id = any (array(select event_id from counted where is_large))) as placed
    group by partner_id, event_id, chunk
),
--{ ordered
lines as (
    insert into ordering_lines as l (partner_id, subscription_id, line, last_place, unfinished)
    select m.partner_id, m.subscription_id, m.line, count(*), count(*) from matched m where m.line is not null
    group by 1, 2, 3 order by 3, 2
    on conflict (partner_id, subscription_id, line) do update
        set last_place = l.last_place + excluded.last_place, unfinished = l.unfinished + excluded.unfinished
    returning l.partner_id, l.subscription_id, l.line, l.last_place, l.unfinished
),
lined_up as (
    select m.event_id, m.subscription_id,
           l.last_place - count(*) over whole + row_number() over in_order as place,
           l.unfinished > count(*) over whole or row_number() over in_order > 1 as waits
    from lines l join matched m
        on m.partner_id = l.partner_id and m.subscription_id = l.subscription_id and m.line = l.line
    window whole as (partition by m.subscription_id, m.line), in_order as (partition by m.subscription_id, m.line order by m.number)
),
--}
--{ unordered
lined_up as (
    select null::uuid as event_id, null::uuid as subscription_id, null::bigint as place, null::boolean as waits where false
),
--}
ready as (
    select *, row_number() over in_turn as rank, lag(number) over in_turn is distinct from number as is_first
    from (select m.*, u.place, coalesce(u.waits, false) as waits,
                 m.flows and not m.batched and not m.set_aside and u.waits is not true as at_once
          from matched m left join lined_up u on u.event_id = m.event_id and u.subscription_id = m.subscription_id
          where m.event_id <> all (array(select event_id from counted where is_large))) as placed
    window in_turn as (order by at_once desc, number)
),
stored as (
    insert into events (id, partner_id, type, source, payload, occurred_at, attributes, ordering_key, matched)
    select e.id, e.partner_id, e.type, e.source, e.payload, e.occurred_at, e.attributes::jsonb, e.ordering_key, coalesce(c.matched, 0)
    from incoming e left join counted c on c.event_id = e.id
    returning id, partner_id, matched
),
queued as (
    insert into queue (partner_id, delivery_id, event_id, subscription_id, line, place, waits, batched, due_at, lease_owner, lease_epoch)
    select r.partner_id, case when r.at_once and r.is_first then r.delivery_id else herald_uuid7_beside(r.event_id) end, r.event_id, r.subscription_id, r.line, r.place, r.waits, r.batched,
           case when not r.flows or r.waits then 'infinity'
                when r.at_once and r.rank <= $11 then herald_now() + make_interval(secs => $10 / 1000.0)
                else herald_now() end,
           case when r.at_once and r.rank <= $11 then $9::uuid end,
           case when r.at_once and r.rank <= $11 then 1 else 0 end
    from ready r
    returning delivery_id, event_id, subscription_id, lease_owner, waits, batched, ctid as row_at
)
select s.partner_id, s.id as event_id, s.matched, q.delivery_id, q.subscription_id, q.lease_owner is not null as leased,
       q.waits, q.batched, q.row_at
--{ alongside
from (select herald_expect((select count(*) from cancelled) + (select count(*) from answered),
                           cardinality($15::uuid[]) + cardinality($19::uuid[])) as ok) as written
left join (stored s left join queued q on q.event_id = s.id) on written.ok
--}
--{ alone
from stored s left join queued q on q.event_id = s.id
--}
