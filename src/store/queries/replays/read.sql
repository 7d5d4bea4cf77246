-- Replays, each section another choice of them.
select partner_id, id, state, dry_run, of_state, surface, external_key, subscriptions, event_type, from_at, until_at, reached,
       matched, queued, skipped, created_at, ended_at
from replays
--{ page
where partner_id = $1 and id < $2 order by id desc limit $3
--}
--{ one
where partner_id = $1 and id = $2
--}
--{ due
-- The one that is due for longest, and that nobody is working on.
where state in ('counting', 'queueing') and due_at <= herald_now() order by due_at limit 1 for update skip locked
--}
