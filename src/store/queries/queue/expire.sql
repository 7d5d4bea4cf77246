-- Ends unfinished deliveries of events that have left the retention window of $1 days as expired: the next $4 after the key ($2, $3). Rows
-- that somebody is sending at this moment are left to their lease: the sender has the event in memory, and whoever claims the row after
-- that ends it. The walk follows the primary key, so that a whole pass reads the queue once.
--
-- Those with an ordering key leave their line, and the next in it is let out. Lines are locked before the rows that stand in them, as
-- everybody does; what stands in a line that somebody else holds is left to the next walk.
with old as materialized (
    select partner_id, delivery_id, subscription_id, line
    from queue
    where (partner_id, delivery_id) > ($2, $3)
      and event_id < herald_uuid7_floor(((herald_now() at time zone 'UTC')::date - $1)::timestamp at time zone 'UTC')
      and (lease_owner is null or due_at <= herald_now())
    order by partner_id, delivery_id
    limit $4
),
lines as materialized (
    select l.partner_id, l.subscription_id, l.line, l.unfinished
    from ordering_lines l
    where exists (select from old o where o.partner_id = l.partner_id and o.subscription_id = l.subscription_id and o.line = l.line)
    order by l.line, l.subscription_id
    for update of l skip locked
),
locked as materialized (
    select q.partner_id, q.delivery_id
    from queue q join old o on o.partner_id = q.partner_id and o.delivery_id = q.delivery_id
    where (q.lease_owner is null or q.due_at <= herald_now())
      and (q.line is null or exists (
          select from lines l where l.partner_id = q.partner_id and l.subscription_id = q.subscription_id and l.line = q.line))
    for update of q skip locked
),
gone as (
    delete from queue q using locked o
    where q.partner_id = o.partner_id and q.delivery_id = o.delivery_id
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.line
),
left_line as materialized (
    select l.partner_id, l.subscription_id, l.line, l.unfinished - count(*) as unfinished
    from lines l join gone g on g.partner_id = l.partner_id and g.subscription_id = l.subscription_id and g.line = l.line
    group by l.partner_id, l.subscription_id, l.line, l.unfinished
),
empty as (
    delete from ordering_lines l using left_line g
    where l.partner_id = g.partner_id and l.subscription_id = g.subscription_id and l.line = g.line and g.unfinished <= 0
),
shorter as (
    update ordering_lines l set unfinished = g.unfinished from left_line g
    where l.partner_id = g.partner_id and l.subscription_id = g.subscription_id and l.line = g.line and g.unfinished > 0
),
let_out as (
    update queue q set waits = false, due_at = case
        when q.batch_id is not null then q.due_at
        when (select s.state in ('paused', 'disabled') from subscriptions s where s.id = q.subscription_id) then 'infinity'
        else herald_now() end
    from left_line g cross join lateral (
        select n.partner_id, n.delivery_id from queue n
        where n.partner_id = g.partner_id and n.subscription_id = g.subscription_id and n.line = g.line
          and not exists (select from gone where gone.partner_id = n.partner_id and gone.delivery_id = n.delivery_id)
        order by n.place limit 1) next
    where g.unfinished > 0 and q.partner_id = next.partner_id and q.delivery_id = next.delivery_id and q.waits
),
told as (
    insert into attempts (partner_id, delivery_id, id, event_id, subscription_id, event_type, outcome, final_state, started_at, latency_ms)
    select g.partner_id, g.delivery_id, herald_uuid7_beside(herald_uuid7_floor(herald_now())), g.event_id, g.subscription_id,
           coalesce(e.type, 'unknown'), 'expired', 'expired', herald_now(), 0
    from gone g left join events e on e.id = g.event_id
),
-- The walk goes on behind what it looked at, whether or not it could end it.
walked as (
    select partner_id, delivery_id from old order by partner_id desc, delivery_id desc limit 1
)
select (select count(*) from gone) as expired, w.partner_id, w.delivery_id from walked w
