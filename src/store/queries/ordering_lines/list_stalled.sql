-- Up to $1 lines in which nobody is first: a finish and a publication passed each other, or those in it were ended behind its back, as the
-- deliveries of a deleted subscription are.
select l.subscription_id, l.line, l.last_place, l.unfinished
from ordering_lines l
where not exists (
    select from queue q
    where q.partner_id = l.partner_id and q.subscription_id = l.subscription_id and q.line = l.line and not q.waits)
limit $1
