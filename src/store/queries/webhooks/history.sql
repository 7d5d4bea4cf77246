-- The latest attempts of each subscription of partner $1 in $2, at most $3 of each, newest first. What ended a delivery without an attempt
-- (cancelled, expired, crashed) is no attempt.
select wanted.subscription_id, tried.id, tried.event_id, tried.started_at, tried.outcome, tried.status
from unnest($2::uuid[]) as wanted (subscription_id)
cross join lateral (
    select a.id, a.event_id, a.started_at, a.outcome, a.status
    from attempts a
    -- The partner is looked at and not searched by: one that is new to the statistics is taken to have a row or none, and all of its are read then.
    where a.subscription_id = wanted.subscription_id and (a.partner_id = $1) is true
      and a.outcome not in ('cancelled', 'expired', 'crashed')
    order by a.id desc
    limit $3) as tried
order by wanted.subscription_id, tried.started_at desc, tried.id desc
