-- Stores events together with the means to deliver them: a queue row for each delivery. Who takes an event was matched beforehand by what this
-- node remembers of the partner's subscriptions; that holds as long as the partner's matching version is still the one that it was read under
-- ($19 in order, $20; 0 is the version of whoever has no row, and $22 have to have another). This is looked at here, so that no match can be
-- stale, and unless it holds for all of them, nothing is written.
--
-- A delivery is leased to this node, which sends it from memory, or held ($15), or due at once for whoever has room. What leaves in
-- batches is due at once and leased to nobody: it is gathered first. What is leased stands in one bundle ($23 to $27), and has no row of its own
-- (docs/decisions/0029); only with an ordering key does it have one ($16), since it may have to wait.
--
-- An event with an ordering key gets in line behind those of its key that are still unfinished, and waits unless it is the first. Its line's
-- row is locked by being written, in the order in which everybody locks lines, and answers with its newest numbers, so that neither a writer
-- on another node nor a finish can slip in between. Without ordering keys none of this touches anything.
--
-- Sessions that were cancelled ($28 to $33) and answers to keep ($34 to $38) are written by the same statement, which is a transaction by itself.
-- They were read without a lock: each is written only if it still is as it was read, and unless all of them are, nothing is. Each is looked up
-- where it was then ($33): one that has moved is not as it was. A session that was not even read, but remembered ($32), has to be as reading it
-- would have found it: not expired, its customer not erased, and cancelled at what is about the present by the database's time.
--
-- What is not needed is left out: the section named "answered" where there are no answers, that named "cancelled" where there are no sessions
-- either, those named "rows" where all deliveries stand in the bundle, and those named "ordered" where no event has an ordering key. Nothing is looked for but by its place or in an index, whatever the
-- planner believes, see docs/decisions/0027.
--
-- Answers with a row for each delivery.
with
--{ cancelled
cancelled as (
    update redirect_sessions s set state = 'Cancelled', version = c.version, updated_at = c.updated_at
    from unnest($28::uuid[], $29::uuid[], $30::bigint[], $31::timestamptz[], $32::boolean[], $33::tid[])
        as c (partner_id, id, version, updated_at, remembered, row_at)
    -- Compared in words that no index and no other way of joining understands.
    where s.ctid = c.row_at and s.partner_id is not distinct from c.partner_id and s.id is not distinct from c.id
      and s.state = 'Active' and s.version = c.version - 1
      and (not c.remembered
           or s.expires_at > herald_now()
              and c.updated_at between herald_now() - interval '1 second' and herald_now() + interval '1 second'
              and (s.customer_id is null
                   or (select k.erased_at is null from customers k where k.id = s.customer_id and k.partner_id = s.partner_id) is true))
    returning s.id
),
--}
--{ answered
answered as (
    insert into idempotency (partner_id, request_id, fingerprint, status, answer)
    select * from unnest($34::uuid[], $35::uuid[], $36::bytea[], $37::smallint[], $38::bytea[]) order by 1, 2
    on conflict (partner_id, request_id) do update
        set fingerprint = excluded.fingerprint, status = excluded.status, answer = excluded.answer, created_at = herald_now()
        where idempotency.created_at < herald_now() - interval '24 hours'
    returning request_id
),
--}
--{ rows
deliveries as (
    select * from unnest($10::uuid[], $11::uuid[], $12::uuid[], $13::uuid[], $14::boolean[], $15::boolean[], $16::boolean[], $21::bigint[])
        with ordinality as d (partner_id, id, event_id, subscription_id, gathers, held, leased, line, number)
),
--{ ordered
lines as (
    insert into ordering_lines as l (partner_id, subscription_id, line, last_place, unfinished)
    select d.partner_id, d.subscription_id, d.line, count(*), count(*) from deliveries d where d.line is not null
    group by 1, 2, 3 order by 3, 2
    on conflict (partner_id, subscription_id, line) do update
        set last_place = l.last_place + excluded.last_place, unfinished = l.unfinished + excluded.unfinished
    returning l.partner_id, l.subscription_id, l.line, l.last_place, l.unfinished
),
lined_up as (
    select d.id, l.last_place - count(*) over whole + row_number() over in_order as place,
           l.unfinished > count(*) over whole or row_number() over in_order > 1 as waits
    from lines l join deliveries d
        on d.partner_id = l.partner_id and d.subscription_id = l.subscription_id and d.line = l.line
    window whole as (partition by d.subscription_id, d.line), in_order as (partition by d.subscription_id, d.line order by d.number)
),
--}
queued as (
    insert into queue (partner_id, delivery_id, event_id, subscription_id, batched, line, place, waits, due_at, lease_owner)
    select d.partner_id, d.id, d.event_id, d.subscription_id, d.gathers, d.line, u.place, u.waits is true,
           case when d.held or u.waits then 'infinity'
                when d.leased then herald_now() + make_interval(secs => $18 / 1000.0)
                else herald_now() end,
           case when d.leased and u.waits is not true then $17::uuid end
    from deliveries d
--{ ordered
    left join lined_up u on u.id = d.id
--}
--{ unordered
    cross join (values (null::bigint, false)) as u (place, waits)
--}
    returning delivery_id, lease_owner, waits, ctid as row_at
),
--}
bundle as (
    insert into bundles (id, owner, due_at, partner_ids, delivery_ids, event_ids, subscription_ids)
    select $23::uuid, $17, herald_now() + make_interval(secs => $18 / 1000.0), $24::uuid[], $25::uuid[], $26::uuid[], $27::uuid[]
    where $23::uuid is not null
),
stored as (
    insert into events (id, partner_id, type, source, payload, occurred_at, attributes, ordering_key, matched)
    select e.id, e.partner_id, e.type, e.source, e.payload, e.occurred_at, e.attributes::jsonb, e.ordering_key, e.matched
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::timestamptz[], $7::text[], $8::text[], $9::integer[])
        as e (id, partner_id, type, source, payload, occurred_at, attributes, ordering_key, matched)
)
--{ rows
select q.delivery_id, q.lease_owner is not null as leased, q.waits, q.row_at
--}
--{ no_rows
select null::uuid as delivery_id, null::boolean as leased, null::boolean as waits, null::tid as row_at
--}
from (select case when counted = expected then true else herald_expect(counted, expected) end as ok
      from (select
          (select coalesce(sum(case when version = ($20::bigint[])[width_bucket(partner_id, $19::uuid[])] then least(version, 1)::int
                               else -1 end), 0)
           from matching_versions where partner_id = any ($19::uuid[]))
--{ cancelled
          + (select count(*) from cancelled) - cardinality($28::uuid[])
--}
--{ answered
          + (select count(*) from answered) - cardinality($34::uuid[])
--}
          as counted, $22::bigint as expected offset 0) as sums) as written
--{ rows
left join queued q on written.ok
--}
--{ no_rows
where written.ok
--}
