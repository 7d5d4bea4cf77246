-- Turns the oldest notice into an event of type $1 and source $2 for whoever of its partner takes that type, and deletes it. Where nobody does, there
-- is no event. Filters are for what producers say about their events, so that who filters takes no notices.
with taken as (
    delete from notices where ctid = (select ctid from notices order by disabled_at limit 1 for update skip locked)
    returning partner_id, subscription_id, reason, disabled_at
),
takers as materialized (
    select s.id, s.state, c.batch_size
    from taken n
    join subscription_event_types t on t.partner_id = n.partner_id and t.event_type = $1 and t.campaign_names is null
    join subscriptions s on s.id = t.subscription_id and s.state <> 'deleted'
    join callbacks c on c.id = s.callback_id
),
told as materialized (
    select n.partner_id, herald_uuid7_beside(herald_uuid7_floor(herald_now())) as event_id, n.disabled_at,
           json_build_object('surface', s.surface, 'id', s.external_key, 'reason', n.reason,
                             'disabledAt', to_char(n.disabled_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) as data
    from taken n
    join subscriptions s on s.id = n.subscription_id
    where exists (select from takers)
),
event as (
    insert into events (id, partner_id, type, source, payload, occurred_at, matched)
    select event_id, partner_id, $1, $2, convert_to(data::text, 'UTF8'), disabled_at, (select count(*) from takers) from told
),
queued as (
    insert into queue (partner_id, delivery_id, event_id, subscription_id, batched, due_at)
    select t.partner_id, herald_uuid7_beside(t.event_id), t.event_id, s.id, s.batch_size > 1,
           case when s.state = 'active' then herald_now() else 'infinity' end
    from told t
    cross join takers s
    returning delivery_id
)
select (select count(*) from queued) from taken
