-- Begins a replay, unless the partner has one that is not over.
insert into replays (partner_id, id, dry_run, of_state, surface, external_key, subscriptions, event_type, from_at, until_at, reached)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, least($10, herald_now()),
        coalesce(herald_uuid7_floor($9), '00000000-0000-0000-0000-000000000000'))
on conflict (partner_id) where state in ('counting', 'queueing') do nothing
