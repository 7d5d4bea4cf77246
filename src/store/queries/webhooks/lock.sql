-- Locks the living subscriptions of partner $1 with the external keys $2, in the order of their ids. They are looked up as in list.sql.
select from subscriptions
where state <> 'deleted' and ctid = any (array(
    select own.place from unnest($2::text[]) as wanted (key)
    cross join lateral (
        select ctid as place from subscriptions
        where partner_id = (select $1) and surface = 'webhooks' and external_key = wanted.key and state <> 'deleted' limit 1) as own))
order by id for update
