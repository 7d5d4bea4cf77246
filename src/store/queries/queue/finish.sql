-- Records what came of a batch of leases. Each is finished only if this node still holds it under the epoch it was leased with: a late
-- finisher changes nothing, and its attempt goes into the history marked late and never as final.
-- Attempts are ordered by their ids. Each gets the millisecond at which it began by database time, so that nodes whose clocks differ agree
-- on which came last.
--   verdict 'final'    the delivery ends in final_state
--   verdict 'retry'    due again after delay_ms, and the attempt counts
--   verdict 'hold'     held while its subscription is paused or disabled; due at once if it no longer is. Whoever has that locked is not waited for: what
--                      is held while it is resumed is found by the next sweep. Counts if there was an attempt
--   verdict 'release'  due again after delay_ms, and nothing counts, not even an attempt that is recorded
-- Who was first in line for its ordering key and has ended lets out the next in the same statement: held, if the subscription is stopped. It
-- may have got in line after that, and then must not be sent even by a node that has not heard of it. The subscription is not locked for this:
-- what is held while it is resumed is found by the next sweep.
with done as materialized (
    select *, herald_now() - make_interval(secs => started_ago_ms / 1000.0) as started_at
    from unnest($2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::bigint[], $7::text[], $8::uuid[], $9::uuid[], $10::uuid[],
                         $11::text[], $12::text[], $13::int[], $14::bigint[], $15::int[], $16::bytea[], $17::text[])
        as d (partner_id, delivery_id, epoch, verdict, delay_ms, final_state, attempt_id, event_id, subscription_id,
              event_type, outcome, status, started_ago_ms, latency_ms, response, detail)
),
-- What the queue is joined with, kept narrow: rows that are joined for an UPDATE or DELETE are copied whole.
verdicts as materialized (
    select partner_id, delivery_id, epoch, verdict, delay_ms, outcome is not null as tried from done
),
-- As each subscription is now, and stays until this is committed. Not those that somebody has locked: these are as this statement sees them.
asked as materialized (
    select id, state in ('paused', 'disabled') as is_stopped from subscriptions
    where id in (select subscription_id from done where verdict = 'hold')
    for share skip locked
),
-- Each is looked up by its key, whatever the planner believes of the queue; see deliver.sql. Conditions on the lease come again, for a row that
-- changes while this statement runs. If all that changed was that its lease was ended (the node was taken to be gone), this may come too late.
found as materialized (
    select d.*, q.place from verdicts d cross join lateral (
        select ctid as place from queue
        where partner_id = d.partner_id and delivery_id = d.delivery_id and lease_owner = $1 and lease_epoch = d.epoch
        limit 1) q
),
ended as (
    delete from queue q
    where q.ctid = any (array(select place from found where verdict = 'final')) and q.lease_owner = $1
      and ((q.delivery_id, q.lease_epoch) in (select delivery_id, epoch from verdicts)) is true
    returning q.partner_id, q.delivery_id, q.lease_epoch as epoch, q.subscription_id, q.line, q.place
),
kept as (
    update queue q set
        attempts = q.attempts + (d.tried and d.verdict <> 'release')::int,
        crashes = case when d.tried then 0 else q.crashes end,
        draining = q.draining and not d.tried,
        lease_owner = null,
        lease_epoch = q.lease_epoch + 1,
        due_at = case when d.verdict = 'hold' and coalesce(
                              (select a.is_stopped from asked a where a.id = q.subscription_id),
                              (select s.state in ('paused', 'disabled') from subscriptions s where s.id = q.subscription_id))
                          then 'infinity'
                      else herald_now() + make_interval(secs => coalesce(d.delay_ms, 0) / 1000.0) end
    from found d
    where d.verdict <> 'final' and q.ctid = d.place and q.lease_owner = $1
      and (q.delivery_id, q.lease_epoch) is not distinct from (d.delivery_id, d.epoch)
    returning q.partner_id, q.delivery_id, d.epoch
),
guarded as (select partner_id, delivery_id, epoch from ended union all select * from kept),
-- Who has left a line, and who is first in it now. A line's own row knows how many stand in it even when some of them got in after this
-- statement began and are not seen by it; such lines are named in the answer and must be looked at once more.
left_line as materialized (
    select partner_id, subscription_id, line, count(*) as finished, max(place) as place from ended where line is not null group by 1, 2, 3
),
lines as materialized (
    select l.partner_id, l.subscription_id, l.line, l.unfinished - g.finished as unfinished, g.place
    from left_line g
    -- Written so that it can only be looked up in the index, see docs/decisions/0027.
    join ordering_lines l on l.partner_id = any (array[g.partner_id]) and l.subscription_id = g.subscription_id and l.line between g.line and g.line
    order by l.line, l.subscription_id
    for update of l
),
empty as (
    delete from ordering_lines l using lines g
    where l.partner_id = any (array[g.partner_id]) and l.subscription_id = g.subscription_id and l.line between g.line and g.line and g.unfinished <= 0
),
shorter as (
    update ordering_lines l set unfinished = g.unfinished from lines g
    where l.partner_id = any (array[g.partner_id]) and l.subscription_id = g.subscription_id and l.line between g.line and g.line and g.unfinished > 0
),
next as materialized (
    select g.partner_id, g.subscription_id, g.line, n.delivery_id
    from lines g left join lateral (
        select delivery_id from queue q
        where q.partner_id = g.partner_id and q.subscription_id = g.subscription_id and q.line = g.line and q.place > g.place
        order by q.place limit 1) n on true
    where g.unfinished > 0
),
let_out as (
    update queue q set waits = false, due_at = case
        when q.batch_id is not null then q.due_at
        when (select s.state in ('paused', 'disabled') from subscriptions s where s.id = q.subscription_id) then 'infinity'
        else herald_now() end
    from next n
    -- Written so that it can only be looked up in the index, see docs/decisions/0027.
    where q.partner_id = any (array[n.partner_id]) and q.delivery_id between n.delivery_id and n.delivery_id and q.waits
    returning q.delivery_id
),
recorded as (
    insert into attempts (partner_id, delivery_id, id, event_id, subscription_id, event_type, outcome, final_state, late, status,
                          started_at, latency_ms, response, detail)
    select d.partner_id, d.delivery_id,
           encode(overlay(uuid_send(d.attempt_id) placing substring(uuid_send(herald_uuid7_floor(d.started_at)) from 1 for 6)
                          from 1 for 6), 'hex')::uuid,
           d.event_id, d.subscription_id, d.event_type, d.outcome,
           case when g.delivery_id is not null then d.final_state end, g.delivery_id is null, d.status,
           d.started_at, d.latency_ms, d.response, d.detail
    from done d left join guarded g
        on g.partner_id = d.partner_id and g.delivery_id = d.delivery_id and g.epoch = d.epoch
    where d.outcome is not null and (
        g.delivery_id is not null
        -- Late; or told again, because the answer to the statement that wrote it never came.
        or d.outcome not in ('cancelled', 'expired', 'crashed') and not exists (
            select from attempts told where told.partner_id = d.partner_id and told.delivery_id = d.delivery_id
               and substring(uuid_send(told.id) from 7) = substring(uuid_send(d.attempt_id) from 7)))
)
select (select count(*) from guarded) as changed, (select count(*) from let_out) as let_out,
       array(select subscription_id from next where delivery_id is null order by line, subscription_id) as stalled_subscriptions,
       array(select line from next where delivery_id is null order by line, subscription_id) as stalled_lines
